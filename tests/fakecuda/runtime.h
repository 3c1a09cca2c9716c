// What cublas.c shares with runtime.c: graphs, and the counters.
#pragma once
#include <stddef.h>
#include <stdint.h>

// A wait right after a download is a part of it. A product and a fill are launches, a graph is none.
struct Counts { long long launch, graph_launch, upload, download, synchronise, malloc, malloc_in_capture; };
extern struct Counts counts;
extern void (*observer)(const char* kernel, void** arguments, const int* sizes);  // of launches, or NULL; set by hooks.py

typedef struct Function Function;
struct Launch { Function* function; unsigned sizes[6]; int shared, count; };  // of grid and block; of arguments
struct Copy { void *to, *from; size_t size; };
struct Fill { void* at; int value; size_t size; };
struct Product {  // c = alpha op(a) op(b) + beta c, column by column, `count` times
  int transposed_a, transposed_b, rows, columns, inner, type, lda, ldb, ldc, count;
  long long step_a, step_b, step_c;
  const void *a, *b;
  void* c;
  double alpha, beta;
};
enum Kind { LAUNCH, FILL, COPY, PRODUCT };
typedef struct Node {
  enum Kind kind;
  struct Node* next;
  union { struct Launch launch; struct Fill fill; struct Copy copy; struct Product product; };
  _Alignas(16) char room[];  // for the arguments of a launch
} Node;
typedef struct Graph { Node *first, *last; int owners; } Graph;

Graph* recording(intptr_t stream);  // the graph that a stream is captured into, or NULL
Node* append(Graph*, enum Kind, size_t room);
void multiply(const struct Product*);

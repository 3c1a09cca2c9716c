// libcublas: the routines that tinyattn calls, as loops. Sums are float64, rounded once: a GPU rounds otherwise.
#include <stdlib.h>
#include "runtime.h"

enum { DONE = 0, INVALID = 7, INTERNAL = 14, UNSUPPORTED = 15 };
enum { FLOAT = 0, DOUBLE = 1, HALF = 2 };  // cudaDataType
typedef struct { intptr_t stream; void* workspace; } Handle;

int cublasCreate_v2(Handle** handle) { return *handle = calloc(1, sizeof(Handle)), DONE; }
int cublasSetStream_v2(Handle* handle, intptr_t stream) {  // the workspace is its own again, as cuBLAS documents
  return *handle = (Handle){stream, NULL}, DONE;
}
int cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t size) { return handle->workspace = workspace, DONE; }

int last_compute;  // the cublasComputeType_t of the last product, for tests

#define MULTIPLY(NAME, T)                                                                                        \
  static void NAME(const struct Product* p) {                                                                    \
    const T *a = p->a, *b = p->b;                                                                                \
    T* c = p->c;                                                                                                 \
    double* sums = malloc(sizeof(double) * (p->rows + 1));                                                       \
    for (int n = 0; n < p->count; n++, a += p->step_a, b += p->step_b, c += p->step_c)                           \
      for (int j = 0; j < p->columns; j++) {                                                                     \
        for (int i = 0; i < p->rows; i++) sums[i] = 0;                                                           \
        for (long long k = 0; k < p->inner; k++) {                                                               \
          double y = b[p->transposed_b ? j + k * p->ldb : k + (long long)j * p->ldb];                            \
          if (p->transposed_a) for (int i = 0; i < p->rows; i++) sums[i] += y * a[k + (long long)i * p->lda];    \
          else for (int i = 0; i < p->rows; i++) sums[i] += y * a[i + k * p->lda];                               \
        }                                                                                                        \
        for (int i = 0; i < p->rows; i++) {                                                                      \
          T* out = c + i + (long long)j * p->ldc;                                                                \
          *out = (T)(p->alpha * sums[i] + (p->beta ? p->beta * *out : 0));                                       \
        }                                                                                                        \
      }                                                                                                          \
    free(sums);                                                                                                  \
  }
MULTIPLY(multiply_floats, float)
MULTIPLY(multiply_doubles, double)
MULTIPLY(multiply_halves, _Float16)

void multiply(const struct Product* p) {
  if (p->type == FLOAT) multiply_floats(p);
  else if (p->type == DOUBLE) multiply_doubles(p);
  else multiply_halves(p);
}

int cublasGemmStridedBatchedEx(Handle* handle, int op_a, int op_b, int rows, int columns, int inner, const void* alpha,
                               const void* a, int type_a, int lda, long long step_a, const void* b, int type_b, int ldb,
                               long long step_b, const void* beta, void* c, int type_c, int ldc, long long step_c, int count,
                               int compute, int algorithm) {
  if (type_a != type_b || type_a != type_c || type_a > HALF) return UNSUPPORTED;
  if (rows < 0 || columns < 0 || inner < 0 || count < 0 || ldc < 1 || ldc < rows) return INVALID;
  if (lda < 1 || lda < (op_a ? inner : rows) || ldb < 1 || ldb < (op_b ? columns : inner)) return INVALID;
  if (step_a < 0 || step_b < 0 || step_c < 0) return INVALID;
  last_compute = compute;
  int wide = type_a == DOUBLE;  // the scalars are of the type that it computes in
  struct Product product = {op_a, op_b, rows, columns, inner, type_a, lda, ldb, ldc, count, step_a, step_b, step_c, a, b, c,
                            wide ? *(double*)alpha : *(float*)alpha, wide ? *(double*)beta : *(float*)beta};
  Graph* graph = recording(handle->stream);
  if (graph && !handle->workspace) return INTERNAL;  // cuBLAS would allocate one
  __atomic_fetch_add(&counts.launch, 1, __ATOMIC_RELAXED);  // Python's lock is not held here
  if (observer) observer("product", (void*[]){&product}, (const int[]){sizeof product, 0});
  if (graph) append(graph, PRODUCT, 0)->product = product;
  else multiply(&product);
  return DONE;
}

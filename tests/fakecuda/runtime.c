// The functions of the CUDA runtime and driver that CuPy calls, for memory of the processor. Python's lock is held in all
// of them, so they take turns. A launch runs at once, unless its stream is being captured; then it becomes a node of a
// graph. Errors are CuPy's CUDARuntimeError with CUDA's number.
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>
#include <unistd.h>
#include "prototypes.h"  // made from the tables in hooks.py
#include "runtime.h"

enum { GPUS = 2, NOT_CAPTURABLE = 900, CAPTURE_INVALIDATED = 901, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 101 };
enum { UPLOAD = 1, DOWNLOAD = 2 };  // cudaMemcpyKind
#define DONE Py_RETURN_NONE

// set by hooks.py
PyObject* error_class;  // CuPy's class
int (*shim_launch)(void (*)(void**), void**, const unsigned*, int, int, int, char*, int);

struct Counts counts;
void (*observer)(const char*, void**, const int*);
static _Thread_local int device;
static _Thread_local int captures;  // of this thread, in progress
static _Thread_local int relaxed;   // the mode of the last of them, in which memory may be allocated
static _Thread_local int downloaded;  // just now: to wait for it is a part of it
long long capacity = 8ll << 30;     // bytes of one GPU
long long used[GPUS];

static PyObject* fail(int status) {
  PyObject* exception = PyObject_CallFunction(error_class, "i", status);
  if (exception) PyErr_SetObject(error_class, exception);
  Py_XDECREF(exception);
  return NULL;
}

// --- devices ---

int runtime_getDeviceCount(int skip) { return GPUS; }
int runtime_getDevice(int skip) { return device; }
PyObject* runtime_setDevice(int index, int skip) {
  if (index < 0 || index >= GPUS) return fail(NO_DEVICE);
  device = index;
  DONE;
}
int runtime_driverGetVersion(int skip) { return 12090; }
int runtime_runtimeGetVersion(int skip) { return 12090; }
PyObject* runtime__ensure_context(void) { DONE; }
int runtime_deviceCanAccessPeer(int index, int peer, int skip) { return 1; }
PyObject* runtime_deviceEnablePeerAccess(int peer, int skip) { DONE; }
PyObject* runtime__deviceEnsurePeerAccess(int peer, int skip) { DONE; }

int runtime_deviceGetAttribute(int attribute, int index, int skip) {  // of a Hopper, by the numbers of cudaDeviceAttr
  switch (attribute) {
    case 1: return 1024;    // threads of a block
    case 8: return 49152;   // bytes of shared memory of a block
    case 10: return 32;     // threads of a warp
    case 16: return 132;    // multiprocessors
    case 39: return 2048;   // threads of one
    case 75: return 9;      // compute capability, major
    case 76: return 0;      // and minor
    case 97: return 232448; // bytes of shared memory that a block can ask for
    default: return 1;
  }
}
PyObject* runtime_getDeviceProperties(int index, int skip) {
  if (index < 0 || index >= GPUS) return fail(NO_DEVICE);
  return Py_BuildValue("{sy si si sL si si si si}", "name", "CuPy without a GPU", "major", 9, "minor", 0, "totalGlobalMem",
                       capacity, "warpSize", 32, "multiProcessorCount", 132, "sharedMemPerBlock", 49152, "computeMode", 0);
}

// --- memory: 512 bytes before an allocation hold its size and its GPU ---

enum { HEADER = 512 };
typedef struct { size_t size; int device; } Header;

intptr_t runtime_malloc(size_t size, int skip) {
  void* block;
  if (captures && !relaxed) return fail(NOT_CAPTURABLE), 0;
  if (used[device] + (long long)size > capacity || posix_memalign(&block, HEADER, size + HEADER)) return fail(NO_MEMORY), 0;
  *(Header*)block = (Header){size, device};
  used[device] += size, counts.malloc++, counts.malloc_in_capture += captures > 0;
  memset((char*)block + HEADER, 0xFF, size);  // NaN, or -1: reading before writing shows
  return (intptr_t)block + HEADER;
}
PyObject* runtime_free(intptr_t memory, int skip) {
  if (!memory) DONE;
  Header* header = (Header*)(memory - HEADER);
  used[header->device] -= header->size;
  free(header);
  DONE;
}
PyObject* runtime_memGetInfo(int skip) { return Py_BuildValue("LL", capacity - used[device], capacity); }
intptr_t runtime_hostAlloc(size_t size, unsigned flags, int skip) {
  void* block;
  return posix_memalign(&block, HEADER, size) ? fail(NO_MEMORY), 0 : (intptr_t)block;
}
PyObject* runtime_freeHost(intptr_t memory, int skip) { free((void*)memory); DONE; }
int runtime_pointerGetMemoryType(intptr_t memory, int skip) { return 0; }  // not known to CUDA: that of NumPy's arrays

// --- streams: 0, and pointers to these ---

typedef struct { Graph* graph; int spoiled; intptr_t waited_for; } Stream;
typedef struct { intptr_t stream; } Event;  // where it was recorded last

Graph* recording(intptr_t stream) { return stream > 2 ? ((Stream*)stream)->graph : NULL; }  // 1 and 2 are default ones too

static PyObject* wait_for(intptr_t stream) {
  if (recording(stream)) return ((Stream*)stream)->spoiled = 1, fail(NOT_CAPTURABLE);
  counts.synchronise += !downloaded, downloaded = 0;
  DONE;
}
intptr_t runtime_streamCreateWithPriority(unsigned flags, int priority, int skip) { return (intptr_t)calloc(1, sizeof(Stream)); }
PyObject* runtime_streamDestroy(intptr_t stream, int skip) { free((void*)stream); DONE; }
PyObject* runtime_streamSynchronize(intptr_t stream, int skip) { return wait_for(stream); }
PyObject* runtime_streamQuery(intptr_t stream, int skip) { DONE; }
PyObject* runtime_streamWaitEvent(intptr_t stream, intptr_t event, int skip, void* optional) {
  if (stream > 2) ((Stream*)stream)->waited_for = ((Event*)event)->stream;
  DONE;
}
intptr_t waited_for(intptr_t stream) { return ((Stream*)stream)->waited_for; }  // for tests
int runtime_streamIsCapturing(intptr_t stream, int skip) { return recording(stream) != NULL; }
PyObject* runtime_deviceSynchronize(int skip) {
  if (captures) return fail(NOT_CAPTURABLE);
  counts.synchronise++;
  DONE;
}
intptr_t runtime_eventCreateWithFlags(unsigned flags, int skip) { return (intptr_t)calloc(1, sizeof(Event)); }
PyObject* runtime_eventDestroy(intptr_t event, int skip) { free((void*)event); DONE; }
PyObject* runtime_eventRecord(intptr_t event, intptr_t stream, int skip) { ((Event*)event)->stream = stream; DONE; }
PyObject* runtime_eventQuery(intptr_t event, int skip) { return PyLong_FromLong(0); }
PyObject* runtime_eventSynchronize(intptr_t event, int skip) { counts.synchronise++; DONE; }
float runtime_eventElapsedTime(intptr_t first, intptr_t last, int skip) { return 0; }

// --- graphs ---

Node* append(Graph* graph, enum Kind kind, size_t size) {
  Node* node = calloc(1, sizeof(Node) + size);
  node->kind = kind;
  if (graph->last) graph->last->next = node;
  else graph->first = node;
  return graph->last = node;
}

static void drop(Graph* graph) {
  for (Node *node = graph->first, *next; node; node = next) {
    next = node->next;
    free(node);
  }
  free(graph);
}

PyObject* runtime_streamBeginCapture(intptr_t stream, int skip, void* optional) {
  if (stream <= 2 || recording(stream)) return fail(NOT_CAPTURABLE);
  *(Stream*)stream = (Stream){.graph = calloc(1, sizeof(Graph))};
  const struct { int count, mode; }* given = optional;  // as Cython passes what has a default
  relaxed = given && given->count && given->mode == 2;
  captures++;
  DONE;
}
intptr_t runtime_streamEndCapture(intptr_t stream, int skip) {
  Graph* graph = recording(stream);
  if (!graph) return fail(INVALID), 0;
  int spoiled = ((Stream*)stream)->spoiled;
  ((Stream*)stream)->graph = NULL;
  captures--;
  if (spoiled) return drop(graph), fail(CAPTURE_INVALIDATED), 0;
  graph->owners = 1;
  return (intptr_t)graph;
}
static PyObject* release(intptr_t graph) {
  if (!--((Graph*)graph)->owners) drop((Graph*)graph);
  DONE;
}
intptr_t runtime_graphInstantiate(intptr_t graph, int skip) { return ((Graph*)graph)->owners++, graph; }
PyObject* runtime_graphDestroy(intptr_t graph, int skip) { return release(graph); }
PyObject* runtime_graphExecDestroy(intptr_t graph, int skip) { return release(graph); }
PyObject* runtime_graphUpload(intptr_t graph, intptr_t stream, int skip) { DONE; }

// --- copies ---

static void copy(intptr_t to, intptr_t from, size_t size, int kind, intptr_t stream) {
  counts.upload += kind == UPLOAD, counts.download += downloaded = kind == DOWNLOAD;
  Graph* graph = recording(stream);
  if (graph) append(graph, COPY, 0)->copy = (struct Copy){(void*)to, (void*)from, size};
  else memmove((void*)to, (void*)from, size);
}
static void fill(intptr_t memory, int value, size_t size, intptr_t stream) {
  counts.launch++, downloaded = 0;
  if (observer) observer("fill", (void*[]){&memory}, (const int[]){sizeof memory, 0});
  Graph* graph = recording(stream);
  if (graph) append(graph, FILL, 0)->fill = (struct Fill){(void*)memory, value, size};
  else memset((void*)memory, value, size);
}
// CUDA copies such memory somehow; nobody may rely on it
static int overlap(intptr_t to, intptr_t from, size_t size) {
  return to < from + (intptr_t)size && from < to + (intptr_t)size && to != from;
}
PyObject* runtime_memcpyAsync(intptr_t to, intptr_t from, size_t size, int kind, intptr_t stream, int skip) {
  if (overlap(to, from, size)) return fail(INVALID);
  copy(to, from, size, kind, stream);
  DONE;
}
PyObject* runtime_memcpy(intptr_t to, intptr_t from, size_t size, int kind, int skip) {
  if (captures) return fail(NOT_CAPTURABLE);
  if (overlap(to, from, size)) return fail(INVALID);
  copy(to, from, size, kind, 0);
  DONE;
}
PyObject* runtime_memcpyPeerAsync(intptr_t to, int to_gpu, intptr_t from, int from_gpu, size_t size, intptr_t stream, int skip) {
  copy(to, from, size, 3, stream);
  DONE;
}
PyObject* runtime_memcpyPeer(intptr_t to, int to_gpu, intptr_t from, int from_gpu, size_t size, int skip) {
  return runtime_memcpy(to, from, size, 3, 0);
}
PyObject* runtime_memsetAsync(intptr_t memory, int value, size_t size, intptr_t stream, int skip) {
  fill(memory, value, size, stream);
  DONE;
}
PyObject* runtime_memset(intptr_t memory, int value, size_t size, int skip) { fill(memory, value, size, 0); DONE; }

// --- kernels: a "cubin" is a shared object, made by compiler.py ---

struct Function { void (*body)(void**); const int* sizes; int mode, most_shared; char name[200]; };

intptr_t driver_moduleLoadData(PyObject* bytes, int skip) {
  char *data, path[] = "/tmp/fakecuda-XXXXXX";
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(bytes, &data, &size)) return 0;
  int file = mkstemp(path);
  int written = file >= 0 && write(file, data, size) == size;
  if (file >= 0) close(file);
  void* library = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  if (!library) PyErr_Format(PyExc_OSError, "a compiled kernel cannot be loaded: %s", written ? dlerror() : "/tmp is full");
  unlink(path);
  return (intptr_t)library;
}
intptr_t driver_moduleGetFunction(intptr_t module, PyObject* name, int skip) {
  char symbol[240];
  Function* function = calloc(1, sizeof *function);
  snprintf(function->name, sizeof function->name, "%s", PyUnicode_AsUTF8(name));
  snprintf(symbol, sizeof symbol, "%s__call", function->name);
  function->body = (void (*)(void**))dlsym((void*)module, symbol);
  snprintf(symbol, sizeof symbol, "%s__sizes", function->name);
  const int* (*sizes)(void) = (const int* (*)(void))dlsym((void*)module, symbol);
  const int* mode = dlsym((void*)module, "fakecuda_mode");
  if (!function->body || !sizes || !mode) return PyErr_Format(PyExc_RuntimeError, "there is no kernel %s", function->name), 0;
  function->sizes = sizes(), function->mode = *mode, function->most_shared = 48 << 10;
  return (intptr_t)function;
}
PyObject* driver_moduleUnload(intptr_t module, int skip) { DONE; }  // its kernels may be in graphs
int driver_funcGetAttribute(int attribute, intptr_t function, int skip) {
  return attribute == 8 ? ((Function*)function)->most_shared : attribute == 0 ? 1024 : 0;  // 0: threads of a block
}
PyObject* driver_funcSetAttribute(intptr_t function, int attribute, int value, int skip) {
  if (attribute == 8) ((Function*)function)->most_shared = value;  // bytes of dynamic shared memory
  DONE;
}

static PyObject* run(struct Launch* launch, void** arguments) {
  char message[500] = "";
  Function* f = launch->function;
  if (!shim_launch(f->body, arguments, launch->sizes, launch->shared, 0, f->mode, message, sizeof message)) DONE;
  return PyErr_Format(PyExc_RuntimeError, "kernel %s: %s", f->name, message);
}
PyObject* driver_launchKernel(intptr_t function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                              unsigned shared, intptr_t stream, intptr_t arguments, intptr_t extra, int skip) {
  struct Launch launch = {(Function*)function, {gx, gy, gz, bx, by, bz}, shared, 0};
  if ((int)shared > launch.function->most_shared) return fail(INVALID);
  counts.launch++, downloaded = 0;
  if (observer) observer(launch.function->name, (void**)arguments, launch.function->sizes);
  Graph* graph = recording(stream);
  if (!graph) return run(&launch, (void**)arguments);
  size_t room = 0;  // the arguments, as they are now, each at a multiple of 16 bytes
  for (const int* size = launch.function->sizes; *size; size++) launch.count++, room += (*size + 15) & ~15;
  Node* node = append(graph, LAUNCH, room);
  node->launch = launch;
  char* at = node->room;
  for (int i = 0; i < launch.count; at += (launch.function->sizes[i++] + 15) & ~15)
    memcpy(at, ((void**)arguments)[i], launch.function->sizes[i]);
  DONE;
}
static PyObject* run_again(Node* node) {
  void* arguments[node->launch.count + 1];
  char* at = node->room;
  for (int i = 0; i < node->launch.count; at += (node->launch.function->sizes[i++] + 15) & ~15) arguments[i] = at;
  return run(&node->launch, arguments);
}

PyObject* runtime_graphLaunch(intptr_t graph, intptr_t stream, int skip) {
  if (recording(stream)) return fail(NOT_CAPTURABLE);
  counts.graph_launch++;
  for (Node* node = ((Graph*)graph)->first; node; node = node->next) {
    PyObject* result = Py_None;
    switch (node->kind) {
      case LAUNCH: result = run_again(node); break;
      case FILL: memset(node->fill.at, node->fill.value, node->fill.size); break;
      case COPY: memmove(node->copy.to, node->copy.from, node->copy.size); break;
      case PRODUCT: multiply(&node->product); break;
    }
    if (!result) return NULL;
  }
  DONE;
}

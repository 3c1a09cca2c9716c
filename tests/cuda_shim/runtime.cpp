// Runs a kernel block by block. Each thread of a block is a fibre with a stack of its own; it goes on until it must wait
// for others (at a barrier, or in an exchange between the lanes of its warp), and then the next one has its turn.
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, size) ((void)(start))
#define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void)(start))
#endif

struct ShimIndex { unsigned x, y, z; };
constexpr int WARP = 32, MOST_THREADS = 1024, GUARD = 1 << 10, MOST_SHARED = 64 << 10;  // Turing's 64 KB is the least
constexpr std::size_t STACK = 256 << 10;

extern "C" {
ShimIndex threadIdx, blockIdx, blockDim, gridDim;
alignas(256) unsigned char block_memory[MOST_SHARED + GUARD];
}

enum Mode { STRICT, LENIENT, PLAIN };
enum State { READY, AT_BARRIER, IN_EXCHANGE, FINISHED };
static const char* const DOING[] = {"runs on", "waits at the barrier", "exchanges values", "has left"};

struct Fibre {
  ucontext_t start;
  jmp_buf place;
  char* stack;
  void* fake_stack;
  bool begun;
  State state;
  int line;           // where it waits
  unsigned mask;      // of the exchange
  int size;
  unsigned exchanges, barriers;  // how many it has been in: cells are used in turn
};

static Fibre fibres[MOST_THREADS];
static int current, threads;
static bool strict;  // whether all threads must be at the same barrier; else those that have left do not count
static unsigned char cells[MOST_THREADS / WARP][2][WARP][16];
static int any[2];
static void (*body)(void**);
static void** arguments;

// --- switching ---

#if defined(__SANITIZE_ADDRESS__)
// the sanitizer must be told of each change of stacks, and does not like longjmp between them
static ucontext_t scheduler;
static void* scheduler_fake_stack;
static const void* scheduler_stack;
static std::size_t scheduler_size;

static void arrived() { __sanitizer_finish_switch_fiber(fibres[current].fake_stack, &scheduler_stack, &scheduler_size); }
static void leave() {
  Fibre& fibre = fibres[current];
  __sanitizer_start_switch_fiber(&fibre.fake_stack, scheduler_stack, scheduler_size);
  swapcontext(&fibre.start, &scheduler);
  arrived();
}
static void resume(int thread) {
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fibres[thread].stack, STACK);
  swapcontext(&scheduler, &fibres[thread].start);
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
}
#else
// swapcontext asks the kernel for the signal mask every time; _setjmp and _longjmp do not
static jmp_buf scheduler;
static void arrived() {}
static void leave() {
  if (!_setjmp(fibres[current].place)) _longjmp(scheduler, 1);
}
static void resume(int thread) {
  Fibre& fibre = fibres[thread];
  if (_setjmp(scheduler)) return;
  if (fibre.begun) _longjmp(fibre.place, 1);
  fibre.begun = true;
  setcontext(&fibre.start);
}
#endif

static void live() {
  arrived();
  for (;;) {  // a fibre is a thread of one block after the other
    body(arguments);
    fibres[current].state = FINISHED;
    leave();
  }
}

static void prepare(int thread) {
  Fibre& fibre = fibres[thread];
  if (fibre.stack) return;
  fibre.stack = static_cast<char*>(
      mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  getcontext(&fibre.start);
  fibre.start.uc_stack.ss_sp = fibre.stack;
  fibre.start.uc_stack.ss_size = STACK;
  makecontext(&fibre.start, live, 0);
}

// --- what kernels call ---

extern "C" int shim_lane() { return current % WARP; }

extern "C" int shim_barrier(int value, int line) {
  Fibre& fibre = fibres[current];
  int turn = fibre.barriers++ % 2;
  any[turn] |= value;
  fibre.state = AT_BARRIER, fibre.line = line;
  leave();
  return any[turn];
}

extern "C" const unsigned char* shim_exchange(const void* value, int size, unsigned mask, int line) {
  Fibre& fibre = fibres[current];
  auto turn = cells[current / WARP][fibre.exchanges++ % 2];
  std::memcpy(turn[current % WARP], value, size);
  fibre.state = IN_EXCHANGE, fibre.line = line, fibre.mask = mask, fibre.size = size;
  leave();
  return turn[0];
}

// --- the schedule ---

static char* message;
static int message_size;

static bool fail(const char* format, ...) {
  std::va_list values;
  va_start(values, format);
  std::vsnprintf(message, message_size, format, values);
  va_end(values);
  return false;
}

static bool differ(const char* what, int a, int b) {
  return fail("%s: in block (%u, %u, %u), thread %d %s (line %d), but thread %d %s (line %d)", what, blockIdx.x, blockIdx.y,
              blockIdx.z, a, DOING[fibres[a].state], fibres[a].line, b, DOING[fibres[b].state], fibres[b].line);
}

// whether threads first to last may go on together from where they wait
static bool meet(const char* what, int first, int last) {
  for (int i = first + 1; i < last; i++) {
    Fibre &a = fibres[first], &b = fibres[i];
    if (a.state != b.state || (a.state != FINISHED && a.line != b.line)) return differ(what, first, i);
  }
  return true;
}

// the i-th of n in the order of the schedule: forward, backward, or in steps of a prime that does not divide n
static long long place_in(int schedule, long long i, long long n) {
  if (schedule == 0) return i;
  if (schedule == 1) return n - 1 - i;
  return (i * (n % 7919 ? 7919 : 7907) + n / 3) % n;
}

static void run_ready(int schedule, int first, int count) {
  for (int i = 0; i < count; i++) {
    current = first + int(place_in(schedule, i, count));
    if (fibres[current].state != READY) continue;
    unsigned flat = current;
    threadIdx = {flat % blockDim.x, flat / blockDim.x % blockDim.y, flat / blockDim.x / blockDim.y};
    resume(current);
  }
}

static bool run_warp(int schedule, int first) {
  int count = threads - first < WARP ? threads - first : WARP;
  for (;;) {
    run_ready(schedule, first, count);
    bool exchanging = false;
    for (int i = first; i < first + count; i++) exchanging |= fibres[i].state == IN_EXCHANGE;
    if (!exchanging) return true;
    if (count < WARP) return fail("an exchange in a warp of %d threads; make blocks of whole warps", count);
    if (!meet("lanes of a warp parted", first, first + count)) return false;
    for (int i = first; i < first + count; i++) {
      if (fibres[i].mask != ~0u) return fail("an exchange at line %d leaves lanes out", fibres[i].line);
      fibres[i].state = READY;
    }
  }
}

static bool run_block(int schedule, int shared) {
  ASAN_UNPOISON_MEMORY_REGION(block_memory, sizeof block_memory);
  std::memset(block_memory, 0xFF, shared + GUARD);  // NaN, whatever the type
  ASAN_POISON_MEMORY_REGION(block_memory + shared, sizeof block_memory - shared);
  any[0] = any[1] = 0;
  for (int i = 0; i < threads; i++) {
    Fibre& fibre = fibres[i];
    fibre.state = READY, fibre.line = 0, fibre.barriers = fibre.exchanges = 0;
  }
  int warps = (threads + WARP - 1) / WARP;
  for (;;) {
    for (int i = 0; i < warps; i++)
      if (!run_warp(schedule, WARP * int(place_in(schedule, i, warps)))) return false;
    if (strict && !meet("a barrier not reached by all", 0, threads)) return false;
    int waiting = 0;  // the first that does
    while (waiting < threads && fibres[waiting].state == FINISHED) waiting++;
    if (waiting == threads) break;
    any[fibres[waiting].barriers % 2] = 0;  // for the next one; this one's value is about to be read
    for (int i = waiting; i < threads; i++)
      if (fibres[i].state != FINISHED) fibres[i].state = READY;
  }
  ASAN_UNPOISON_MEMORY_REGION(block_memory, sizeof block_memory);
  for (int i = shared; i < shared + GUARD; i++)
    if (block_memory[i] != 0xFF) return fail("a write %d bytes beyond the %d of shared memory", i - shared, shared);
  return true;
}

// shim_launch for a kernel whose threads never wait for each other: no fibres, so much faster. The last thread begins,
// since a GPU's begin in any order: what depends on it shows.
static void run_plainly() {
  for (blockIdx.z = gridDim.z; blockIdx.z-- > 0;)
    for (blockIdx.y = gridDim.y; blockIdx.y-- > 0;)
      for (blockIdx.x = gridDim.x; blockIdx.x-- > 0;)
        for (threadIdx.z = blockDim.z; threadIdx.z-- > 0;)
          for (threadIdx.y = blockDim.y; threadIdx.y-- > 0;)
            for (threadIdx.x = blockDim.x; threadIdx.x-- > 0;) body(arguments);
}

// mode: STRICT, LENIENT (CuPy's scans have barriers in branches that some threads do not take) or PLAIN
extern "C" int shim_launch(void (*kernel)(void**), void** args, const unsigned* sizes, int shared, int schedule, int mode,
                           char* text, int text_size) {
  message = text, message_size = text_size, body = kernel, arguments = args, strict = mode == STRICT;
  gridDim = {sizes[0], sizes[1], sizes[2]}, blockDim = {sizes[3], sizes[4], sizes[5]};
  unsigned long long blocks = 1ull * gridDim.x * gridDim.y * gridDim.z, size = 1ull * blockDim.x * blockDim.y * blockDim.z;
  if (!blocks || !size || size > MOST_THREADS || gridDim.x >> 31 || gridDim.y > 65535 || gridDim.z > 65535)
    return fail("a grid of (%u, %u, %u) blocks of (%u, %u, %u) threads", sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]), 1;
  if (shared > MOST_SHARED) return fail("%d bytes of shared memory; not every GPU has them", shared), 1;
  if (mode == PLAIN) return run_plainly(), 0;
  threads = int(size);
  for (int i = 0; i < threads; i++) prepare(i);
  bool well = true;
  for (unsigned long long i = 0; well && i < blocks; i++) {
    unsigned long long flat = place_in(schedule, i, blocks);
    blockIdx = {unsigned(flat % gridDim.x), unsigned(flat / gridDim.x % gridDim.y), unsigned(flat / gridDim.x / gridDim.y)};
    well = run_block(schedule, shared);
  }
  if (!well)  // those that still wait would go on in the middle of a kernel
    for (Fibre& fibre : fibres) {
      if (fibre.stack) munmap(fibre.stack, STACK);
      fibre = Fibre{};
    }
  return !well;
}

// A CUDA driver without a GPU: it keeps a record of what it is asked to do and does none of it.
// It has two devices (or NULLCUDA_DEVICES) of compute capability 9.0 and is of CUDA 13.0 (or
// NULLCUDA_VERSION); device memory is the host's. What the tests need is here, anything else is
// refused (CUDA_ERROR_NOT_SUPPORTED).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, INVALID_DEVICE = 101,
       NO_DEVICE = 100, NOT_SUPPORTED = 801, DEVICES = 8, DEPTH = 16 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *text;
static size_t used, room;
static int quiet;
static uintptr_t handles = 0x1000;
static int contexts[DEVICES];
static __thread void *stack[DEPTH];
static __thread int depth;

void nullcuda_print(void) { printf("record:\n%s", text ? text : ""); fflush(stdout); }
void nullcuda_clear(void) { used = 0; if (text) text[0] = 0; }
void nullcuda_quiet(int value) { quiet = value; }

static void append(const char *format, ...) {
    va_list arguments;
    for (;;) {
        va_start(arguments, format);
        int n = vsnprintf(text + used, room - used, format, arguments);
        va_end(arguments);
        if (text && used + n < room) { used += n; return; }
        room = 2 * room + n + 4096;
        text = realloc(text, room);
    }
}

// One line a call; the context that is current, as the number of its device, goes with it.
static int current(void) {
    for (int d = 0; d < DEVICES; d++)
        if (depth && stack[depth - 1] == &contexts[d]) return d;
    return -1;
}

#define RECORD(...) do { if (!quiet) { pthread_mutex_lock(&lock); append(__VA_ARGS__); \
    pthread_mutex_unlock(&lock); } } while (0)

static void *fresh(void) {
    pthread_mutex_lock(&lock);
    void *handle = (void *)(handles += 16);
    pthread_mutex_unlock(&lock);
    return handle;
}

static int asked(const char *variable, int usual) {
    const char *said = getenv(variable);
    return said ? atoi(said) : usual;
}
static int number(void) { return asked("NULLCUDA_DEVICES", 2); }

Result cuInit(unsigned flags) { return number() ? SUCCESS : NO_DEVICE; }
Result cuDriverGetVersion(int *version) {
    *version = asked("NULLCUDA_VERSION", 13000);
    return SUCCESS;
}
Result cuDeviceGetCount(int *count) { *count = number(); return SUCCESS; }
Result cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal < number() ? SUCCESS : INVALID_DEVICE;
}

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 16: *value = 132 - device; return SUCCESS;  // multiprocessors
    case 38: *value = 50 << 20; return SUCCESS;      // bytes of L2
    case 75: *value = 9; return SUCCESS;
    case 76: *value = 0; return SUCCESS;
    case 97: *value = 232448; return SUCCESS;        // shared memory that a block may ask for
    }
    RECORD("cuDeviceGetAttribute refused=%d\n", attribute);
    return NOT_SUPPORTED;
}

Result cuDevicePrimaryCtxRetain(void **context, int device) {
    RECORD("cuDevicePrimaryCtxRetain device=%d\n", device);
    *context = &contexts[device];
    return SUCCESS;
}
Result cuCtxGetCurrent(void **context) { *context = depth ? stack[depth - 1] : NULL; return SUCCESS; }
Result cuCtxSetCurrent(void *context) {
    if (!depth) depth = 1;
    stack[depth - 1] = context;
    return SUCCESS;
}
Result cuCtxPushCurrent_v2(void *context) { stack[depth++] = context; return SUCCESS; }
Result cuCtxPopCurrent_v2(void **context) {
    if (!depth) return INVALID_CONTEXT;
    *context = stack[--depth];
    return SUCCESS;
}

Result cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned n, void *c,
                         void *d, unsigned m) {
    *library = fresh();
    RECORD("cuLibraryLoadData magic=%.3s\n", (const char *)code + 1);
    return SUCCESS;
}
Result cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    *kernel = fresh();
    RECORD("cuLibraryGetKernel entry=%s\n", name);
    return SUCCESS;
}
Result cuKernelGetFunction(void **function, void *kernel) {
    if (current() < 0) return INVALID_CONTEXT;
    *function = fresh();
    RECORD("cuKernelGetFunction device=%d function=%ld\n", current(), (long)*function);
    return SUCCESS;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) {
    RECORD("cuFuncSetAttribute device=%d function=%ld attribute=%d value=%d\n", current(),
           (long)function, attribute, value);
    return SUCCESS;
}

struct config {
    unsigned grid[3], block[3], shared;
    void *stream, *attributes;
    unsigned number;
};

static Result launched(const struct config *c, void *function, void **extra) {
    if (current() < 0) return INVALID_CONTEXT;
    if (!c->grid[0] || (uintptr_t)extra[0] != 1 || (uintptr_t)extra[2] != 2 || extra[4])
        return INVALID_VALUE;
    if (quiet) return SUCCESS;
    const int64_t *plan = extra[1];
    size_t bytes = *(size_t *)extra[3];
    pthread_mutex_lock(&lock);
    append("cuLaunchKernel device=%d function=%ld stream=%ld grid=%u,%u,%u block=%u,%u,%u shared=%u",
           current(), (long)function, (long)c->stream, c->grid[0], c->grid[1], c->grid[2],
           c->block[0], c->block[1], c->block[2], c->shared);
    for (unsigned k = 0; k < c->number; k++) {  // 4: cluster; an attribute takes 72 bytes
        const unsigned *a = (const unsigned *)((const char *)c->attributes + 72 * k);
        append(" attribute%u=%u,%u,%u", a[0], a[2], a[3], a[4]);
    }
    append(" plan=");
    for (size_t k = 0; k < bytes / 8; k++) append(k ? ",%ld" : "%ld", (long)plan[k]);
    append("\n");
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}
Result cuLaunchKernelEx(const struct config *config, void *function, void **a, void **extra) {
    return launched(config, function, extra);
}
Result cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by,
                      unsigned bz, unsigned shared, void *stream, void **a, void **extra) {
    struct config config = {{x, y, z}, {bx, by, bz}, shared, stream, NULL, 0};
    return launched(&config, function, extra);
}

Result cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    RECORD("cuMemcpyDtoHAsync device=%d bytes=%zu stream=%ld\n", current(), bytes, (long)stream);
    memcpy(to, (void *)from, bytes);
    return SUCCESS;
}
Result cuStreamSynchronize(void *stream) {
    RECORD("cuStreamSynchronize stream=%ld\n", (long)stream);
    return SUCCESS;
}
Result cuEventCreate(void **event, unsigned flags) {
    *event = fresh();
    RECORD("cuEventCreate device=%d flags=%u event=%ld\n", current(), flags, (long)*event);
    return SUCCESS;
}
Result cuEventRecord(void *event, void *stream) {
    RECORD("cuEventRecord event=%ld stream=%ld\n", (long)event, (long)stream);
    return SUCCESS;
}
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    RECORD("cuStreamWaitEvent event=%ld stream=%ld\n", (long)event, (long)stream);
    return SUCCESS;
}
Result cuEventDestroy_v2(void *event) {
    RECORD("cuEventDestroy event=%ld\n", (long)event);
    return SUCCESS;
}

Result cuGetErrorName(Result result, const char **name) { *name = "NULLCUDA"; return SUCCESS; }
Result cuGetErrorString(Result result, const char **said) {
    *said = result == NOT_SUPPORTED ? "not in the null driver"
            : result == NO_DEVICE ? "no device" : "refused by the null driver";
    return SUCCESS;
}

// Stream 99 is being captured into a graph.
Result cuStreamIsCapturing(void *stream, int *status) {
    *status = (uintptr_t)stream == 99;
    return SUCCESS;
}

static Result refused(void) { RECORD("refused\n"); return NOT_SUPPORTED; }

Result cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *st) {
    static void *self;
    char latest[256];
    Dl_info info;
    if (!self && dladdr((void *)cuInit, &info)) self = dlopen(info.dli_fname, RTLD_NOW);
    snprintf(latest, sizeof latest, "%s_v2", name);
    *function = dlsym(self, latest);
    if (!*function) *function = dlsym(self, name);
    if (!*function) *function = (void *)refused;
    if (st) *st = 0;
    return SUCCESS;
}
Result cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

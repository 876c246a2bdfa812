// Threads, barriers and memory of emulated kernels; see runtime.h. `emulate` runs one launch.
//
// An error that would fail on a device, or change its results from run to run, ends the launch with
// a message: accesses outside of arrays; misaligned accesses; loads of bytes that were never
// written and stores to bytes that may not be written; races (two threads access a byte, one of
// them writes, and no barrier is between); lanes that wait at different instructions; deadlocks.
#define _GNU_SOURCE
#include "runtime.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { READY, ENDED, AT_SHUFFLE, AT_WARP_BARRIER, AT_BARRIER, AT_CLUSTER_WAIT };
enum { FORWARD, REVERSE, RANDOM };
enum { READABLE = 1, WRITABLE = 2, STORED = 4 };  // of each byte of a Memory

// Memory that may be accessed; `marks` has two for each byte: its last writer, its last reader.
typedef struct Memory {
    u64 start, end;
    u8 *state;       // see above; null: all may be read and written
    u64 *marks;      // null: races are not looked for
    u64 counts[2][6];  // reads and writes of 1, 2, 4, 8, 16, 32 bytes
    const char *name;
} Memory;

typedef struct {
    void (*kernel)(Thread *, const u64 *);
    const u64 *parameters;
    u32 blocks, threads, shared, cluster, order;
    u64 seed;
    Memory *memory;
    u32 memories;
    u32 error_size;
    char *error;
} Launch;

#define STACK (1 << 16)

u64 unit_seed;
static const Launch *launch;
static Block *blocks;     // of the cluster that runs
static u8 *stacks;        // of its threads
static u32 stacks_made;
static void *main_stack;
static Thread *running;
static u32 launch_base, cluster_base, next_thread = 1;  // thread numbers, counted since the marks were cleared
static u64 random_state;
static Memory *last;      // the region of the previous access

// ---------------------------------------------------------------- fibers (x86-64)

void switch_stacks(void **save, void *load);
__asm__(".text\n.local switch_stacks\nswitch_stacks:\n"
        " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        " mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
        " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");

static void leave(void) { switch_stacks(&running->stack_pointer, main_stack); }

static void end_thread(Thread *t) {
    t->state = ENDED;
    for (;;) leave();
}

static void __attribute__((noinline, noreturn)) fault(Thread *t, const char *what, const char *where, u64 offset) {
    if (!launch->error[0])
        snprintf(launch->error, launch->error_size, "%s, byte %lld of %s: thread %u of block %u",
                 what, (long long)offset, where, t->tid, t->block->ctaid);
    end_thread(t);
    __builtin_unreachable();
}

static void __attribute__((noinline, noreturn)) stop(Thread *t, const char *what, u32 line) {
    if (!launch->error[0])
        snprintf(launch->error, launch->error_size, "%s, line %u of the PTX: thread %u of block %u",
                 what, line, t->tid, t->block->ctaid);
    end_thread(t);
    __builtin_unreachable();
}

static void first_function(void) {
    Thread *t = running;
    launch->kernel(t, launch->parameters);
    if (t->pending) stop(t, "ends while its asynchronous copies are under way", 0);
    if (t->remote) stop(t, "has read the shared memory of a block that may have ended", 0);
    if (t->arrivals != t->waits)
        stop(t, "has arrived at a barrier of the cluster and ends without waiting: its block may have ended", 0);
    end_thread(t);
}

// ---------------------------------------------------------------- races
//
// A mark says which thread accessed a byte last, and how many barriers it had passed. In bits:
// thread 28 | scope of the threads that share it 2 | barriers of warp 14, block 12, cluster 8.

enum { ONE, OF_WARP, OF_BLOCK, OF_MORE };
typedef struct { u32 thread, spread, warp, block, cluster; } Mark;

static u64 packed(Mark m) {
    return (u64)m.thread << 36 | (u64)m.spread << 34 | (u64)(m.warp & 0x3fff) << 20 |
           (u64)(m.block & 0xfff) << 8 | (m.cluster & 0xff);
}
static Mark unpacked(u64 m) {
    return (Mark){m >> 36, m >> 34 & 3, m >> 20 & 0x3fff, m >> 8 & 0xfff, m & 0xff};
}
static u32 number_of(const Thread *t) { return cluster_base + t->block->rank * launch->threads + t->tid; }

static u32 distance(const Thread *t, u32 other) {  // the smallest scope that has both threads
    u32 me = number_of(t);
    if (me == other) return ONE;
    u32 a = me - cluster_base, b = other - cluster_base, n = launch->threads;
    if (a / n != b / n) return OF_MORE;
    return a % n / WARP == b % n / WARP ? OF_WARP : OF_BLOCK;
}

// Whether all accesses of the mark happen before the current access of the thread. Marks of threads
// below `since` are empty, of an earlier launch, or of a block that had this shared memory before.
// `passed`: the barriers of the cluster that order accesses of others before this one; for their
// stores, only those with release arrivals, because a relaxed arrive makes no stores visible.
static int comes_before(Mark m, const Thread *t, u32 since, u32 passed) {
    if (m.thread < since) return 1;
    if (m.thread < cluster_base) return 0;  // another cluster of this launch
    u32 far = distance(t, m.thread);
    int met = ((passed - m.cluster - 1) & 0xff) < 0xfd;  // waits > arrivals; none is 3 ahead
    switch (far > m.spread ? far : m.spread) {
    case ONE: return 1;
    case OF_WARP: return met || m.warp != (t->warp_syncs & 0x3fff);
    case OF_BLOCK: return met || m.block != (t->block_syncs & 0xfff);
    default: return met;
    }
}

static void __attribute__((noinline, noreturn)) race(Thread *t, Mark m, const char *where, u64 offset) {
    char what[160];
    u32 other = m.thread - cluster_base, n = launch->threads;
    if (m.thread < cluster_base) snprintf(what, sizeof what, "a race with a thread of another cluster");
    else snprintf(what, sizeof what, "a race with thread %u of block %u", other % n, blocks[other / n].ctaid);
    fault(t, what, where, offset);
}

static void check_race(Thread *t, Memory *m, u64 at, u32 bytes, int writes, u32 since) {
    u64 *marks = m->marks + 2 * at;
    Mark mine = {number_of(t), ONE, t->warp_syncs, t->block_syncs, writes ? t->releases : t->arrivals};
    u64 me = packed(mine), seen[2] = {~0ull, ~0ull}, merged = 0;
    for (u32 k = 0; k < bytes; k++) {
        u64 *wrote = marks + 2 * k, *has_read = wrote + 1;
        if (*wrote != seen[0] || *has_read != seen[1]) {  // neighbours mostly have the same marks
            seen[0] = *wrote, seen[1] = *has_read;
            Mark w = unpacked(*wrote), r = unpacked(*has_read);
            if (!comes_before(w, t, since, t->acquired)) race(t, w, m->name, at + k);
            if (writes && !comes_before(r, t, since, t->waits)) race(t, r, m->name, at + k);
            Mark shared = mine;
            if (!comes_before(r, t, since, t->waits)) {  // two readers: a writer has to come after both
                u32 far = r.thread < cluster_base ? OF_MORE : distance(t, r.thread);
                shared.spread = far > r.spread ? far : r.spread;
            }
            int elsewhere = r.thread >= since && r.thread < cluster_base;  // keep it: no writer comes after it
            merged = elsewhere ? *has_read : packed(shared);
        }
        if (writes) *wrote = me; else *has_read = merged;
    }
}

// ---------------------------------------------------------------- memory

static Memory *memory_at(u64 address, u32 bytes) {
    for (u32 k = 0; k < launch->memories; k++) {
        Memory *m = launch->memory + k;
        if (address >= m->start && address < m->end && bytes <= m->end - address) return m;
    }
    return 0;
}

static void __attribute__((noinline)) check_state(Thread *t, Memory *m, u64 at, u32 bytes, int writes) {
    u8 wanted = writes ? WRITABLE : READABLE;
    for (u32 k = 0; k < bytes; k++) {
        if (!(m->state[at + k] & wanted))
            fault(t, writes ? "a store to what is none of an output" : "a load of what has never been written",
                  m->name, at + k);
        if (writes) m->state[at + k] |= READABLE | STORED;
    }
}

void *global_access(Thread *t, u64 address, u32 bytes, int writes) {
    Memory *m = last;
    if (!m || address < m->start || address >= m->end || bytes > m->end - address) {
        m = memory_at(address, bytes);
        if (!m) fault(t, writes ? "a store outside of every array" : "a load outside of every array",
                      "the address space", address);
        last = m;
    }
    u64 at = address - m->start;
    if (address % bytes) fault(t, "a misaligned access", m->name, at);
    m->counts[writes][__builtin_ctz(bytes)]++;
    if (m->state) check_state(t, m, at, bytes, writes);
    if (m->marks) check_race(t, m, at, bytes, writes, launch_base);
    return (void *)address;
}

// The upper 8 bits of an address are the rank of the block whose shared memory it is in, plus one;
// 0 is the thread's own block.
void *cluster_access(Thread *t, u32 address, u32 bytes, int writes) {
    u32 rank = address >> 24, at = (address & 0xffffff) - SHARED_BASE;
    if (rank > launch->cluster) fault(t, "an access outside of the launch", "shared memory", address);
    Block *b = rank ? blocks + rank - 1 : t->block;
    if (b != t->block) {
        if (t->arrivals != t->waits)
            fault(t, "an access to a block that may have ended, by a thread that has arrived already",
                  "shared memory", at);
        if (!t->waits) fault(t, "an access to a block that may not have begun", "shared memory", at);
        t->remote = 1;
    }
    Memory *m = b->shared;
    if ((address & 0xffffff) < SHARED_BASE || at + bytes > launch->shared)
        fault(t, "an access outside of the launch", "shared memory", at);
    if (at % bytes) fault(t, "a misaligned access", "shared memory", at);
    m->counts[writes][__builtin_ctz(bytes)]++;
    for (u32 k = 0; k < t->pending && b == t->block; k++) {
        u32 to = (t->copies[k].to & 0xffffff) - SHARED_BASE;
        if (at < to + 16 && to < at + bytes)
            fault(t, "an access to where an asynchronous copy is under way", "shared memory", at);
    }
    if (!writes)
        for (u32 k = 0; k < bytes; k++)
            if (unpacked(m->marks[2 * (at + k)]).thread < cluster_base)
                fault(t, "a load of what has never been written", "shared memory", at + k);
    check_race(t, m, at, bytes, writes, cluster_base);
    return (u8 *)m->start + at;
}

void *shared_access(Thread *t, u32 address, u32 bytes, int writes) {
    if (address >> 24) fault(t, "an access to another block without ::cluster", "shared memory", address);
    return cluster_access(t, address, bytes, writes);
}

void *local_access(Thread *t, u64 address, u32 bytes, int writes) {
    if (address < (u64)t->stack_low || address + bytes > (u64)t->stack_high)
        fault(t, "an access outside", "local memory", address);
    if (address % bytes) fault(t, "a misaligned access", "local memory", address);
    return (void *)address;
}

void *generic_access(Thread *t, u64 address, u32 bytes, int writes) {
    int local = address >= (u64)t->stack_low && address < (u64)t->stack_high;
    return local ? local_access(t, address, bytes, writes) : global_access(t, address, bytes, writes);
}

u32 map_shared_rank(Thread *t, u32 address, u32 rank) {
    if (rank >= launch->cluster) fault(t, "a cluster without such a block", "the cluster", rank);
    return (address & 0xffffff) | (rank + 1) << 24;
}

void copy_async(Thread *t, u32 to, u64 from) {
    if (t->pending == PENDING) fault(t, "too many asynchronous copies", "shared memory", to);
    global_access(t, from, 16, 0);
    shared_access(t, to, 16, 1);  // the copy may complete at once, or only at the wait
    t->copies[t->pending++] = (Copy){from, to};
}

void copies_wait(Thread *t) {
    u32 n = t->pending;
    t->pending = 0;
    for (u32 k = 0; k < n; k++) {
        u64 at = t->copies[k].to - SHARED_BASE;
        check_race(t, t->block->shared, at, 16, 1, cluster_base);  // against threads that have read it meanwhile
        memcpy((u8 *)t->block->shared->start + at, (void *)t->copies[k].from, 16);
    }
}

// ---------------------------------------------------------------- waiting for others

static void wait_for(Thread *t, u32 state, u32 line) {
    t->state = state, t->site = line;
    leave();
}
u32 shuffle(Thread *t, u32 value, u32 lane, u32 clamp, u32 mask, u32 line) {
    if (clamp != 31 || mask != ~0u) stop(t, "a shuffle of less than the warp", line);
    t->value = value, t->lane = lane;
    wait_for(t, AT_SHUFFLE, line);
    return t->received;
}
void barrier(Thread *t, u32 line) { wait_for(t, AT_BARRIER, line); }
void warp_barrier(Thread *t, u32 line) { wait_for(t, AT_WARP_BARRIER, line); }
void cluster_arrive(Thread *t, u32 line, int relaxed) {
    if (t->arrivals != t->waits) stop(t, "arrives twice at a barrier of the cluster", line);
    t->arrivals++, t->releases += !relaxed, t->remote = 0;
}
void cluster_wait(Thread *t, u32 line) {
    if (t->arrivals == t->waits) stop(t, "waits at a barrier of the cluster where it has not arrived", line);
    wait_for(t, AT_CLUSTER_WAIT, line);
}
void trap(Thread *t, u32 line) { stop(t, "trap", line); }

static u64 random_number(void) {
    random_state ^= random_state << 13, random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void arrange(u32 *order, u32 n) {  // the order in which n items run
    for (u32 k = 0; k < n; k++) order[k] = launch->order == REVERSE ? n - 1 - k : k;
    if (launch->order == RANDOM)
        for (u32 k = n; k > 1; k--) {
            u32 other = random_number() % k, kept = order[k - 1];
            order[k - 1] = order[other], order[other] = kept;
        }
}

static int same_site(const Thread *t, u32 n) {
    for (u32 k = 1; k < n; k++)
        if (t[k].site != t[0].site || t[k].state != t[0].state) return 0;
    return 1;
}

// Runs the lanes of a warp until some wait for threads outside of it; returns whether any lane ran.
static int run_warp(Thread *t, u32 lanes) {
    u32 order[WARP];
    for (int ran = 0;; ran = 1) {
        int any = 0;
        arrange(order, lanes);
        for (u32 k = 0; k < lanes; k++) {
            Thread *one = t + order[k];
            if (one->state != READY) continue;
            any = 1, running = one;
            switch_stacks(&main_stack, one->stack_pointer);
            if (launch->error[0]) return 0;
        }
        if (!any) return ran;
        u32 at = t[0].state;
        if ((at != AT_SHUFFLE && at != AT_WARP_BARRIER) || lanes < WARP || !same_site(t, lanes)) return 1;
        for (u32 k = 0; k < lanes; k++) t[k].received = t[t[k].lane % WARP].value;
        for (u32 k = 0; k < lanes; k++) t[k].state = READY, t[k].warp_syncs += at == AT_WARP_BARRIER;
    }
}

static int release_block(Block *b) {
    Thread *t = b->threads;
    u32 n = launch->threads;
    for (u32 k = 0; k < n; k++)
        if (t[k].state != AT_BARRIER) return 0;
    for (u32 w = 0; w < n; w += WARP)
        if (!same_site(t + w, n - w < WARP ? n - w : WARP)) return 0;
    for (u32 k = 0; k < n; k++) t[k].state = READY, t[k].block_syncs++, t[k].warp_syncs++;
    return 1;
}

static int release_cluster(Thread *all, u32 n) {
    int any = 0;
    u32 fewest = ~0u;
    for (u32 k = 0; k < n; k++) if (all[k].arrivals < fewest) fewest = all[k].arrivals;
    for (u32 k = 0; k < n; k++)
        if (all[k].state == AT_CLUSTER_WAIT && all[k].waits < fewest) {
            all[k].state = READY, any = 1;
            all[k].waits++, all[k].acquired = all[k].releases;
        }
    return any;
}

static void report_deadlock(const Thread *all, u32 n) {
    static const char *places[] = {"ready", "ended", "at a shuffle", "at a barrier of the warp",
                                   "at a barrier", "at a barrier of the cluster"};
    char *to = launch->error, *end = to + launch->error_size;
    to += snprintf(to, end - to, "threads wait for others:");
    for (u32 k = 0, first = 0, runs = 0; k < n; k++) {
        int goes_on = k + 1 < n && all[k + 1].block == all[k].block && all[k + 1].state == all[k].state &&
                      (all[k].state == ENDED || all[k + 1].site == all[k].site);
        if (goes_on) continue;
        if (runs++ == 8 || end - to < 120) { snprintf(to, end - to, " ..."); return; }
        to += snprintf(to, end - to, " block %u threads %u-%u %s", all[k].block->ctaid, all[first].tid,
                       all[k].tid, places[all[k].state]);
        if (all[k].state != ENDED) to += snprintf(to, end - to, " (line %u of the PTX)", all[k].site);
        to += snprintf(to, end - to, k + 1 < n ? ";" : "");
        first = k + 1;
    }
}

// ---------------------------------------------------------------- a cluster, a grid

static void prepare(Thread *t, u32 index, Block *b, u32 tid) {
    u8 *low = stacks + (size_t)STACK * index;
    t->block = b, t->tid = tid, t->state = READY, t->stack_low = low, t->stack_high = low + STACK;
    t->warp_syncs = t->block_syncs = t->arrivals = t->waits = t->releases = t->acquired = 0;
    t->remote = t->pending = t->site = 0;
    // Stack tops have different offsets in their pages, so that they do not share cache lines.
    void **top = (void **)(low + STACK - 64 * (1 + index % 47)) - 1;
    *--top = (void *)first_function;
    for (int r = 0; r < 6; r++) *--top = 0;
    t->stack_pointer = top;
}

static void run_cluster(Thread *all, u32 first) {
    u32 n = launch->threads, warps = (n + WARP - 1) / WARP, count = launch->cluster * warps;
    u32 order[16 * 32];
    for (u32 b = 0; b < launch->cluster; b++) {
        blocks[b].ctaid = first + b;
        for (u32 k = 0; k < n; k++) prepare(blocks[b].threads + k, b * n + k, blocks + b, k);
    }
    for (;;) {
        int any = 0;
        u32 ended = 0, total = launch->cluster * n;
        arrange(order, count);
        for (u32 k = 0; k < count; k++) {
            u32 b = order[k] / warps, w = order[k] % warps * WARP;
            any |= run_warp(blocks[b].threads + w, n - w < WARP ? n - w : WARP);
            if (launch->error[0]) return;
        }
        for (u32 k = 0; k < total; k++) ended += all[k].state == ENDED;
        if (ended == total) return;
        for (u32 b = 0; b < launch->cluster; b++) any |= release_block(blocks + b);
        any |= release_cluster(all, total);
        if (!any) { report_deadlock(all, total); return; }
    }
}

static void make_stacks(u32 n) {
    if (stacks_made >= n) return;
    if (stacks) munmap(stacks, (size_t)STACK * stacks_made);
    stacks = mmap(0, (size_t)STACK * n, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    stacks_made = n;
}

// Thread numbers have 28 bits: when they are used up, marks are cleared and numbering starts again.
static void number_threads(u32 n, Memory *shared) {
    if (next_thread + n < 1u << 28) return;
    for (u32 k = 0; k < launch->memories; k++)
        if (launch->memory[k].marks)
            memset(launch->memory[k].marks, 0, 16 * (launch->memory[k].end - launch->memory[k].start));
    for (u32 b = 0; b < launch->cluster; b++) memset(shared[b].marks, 0, 16ull * launch->shared);
    launch_base = next_thread = 1;
}

int emulate(const Launch *one) {
    launch = one, last = 0, random_state = one->seed * 2654435769u + 88172645463325252u;
    one->error[0] = 0, launch_base = next_thread;
    u32 n = one->threads * one->cluster, clusters = one->blocks / one->cluster;
    make_stacks(n);
    blocks = calloc(one->cluster, sizeof(Block));
    Memory *shared = calloc(one->cluster, sizeof(Memory));
    Thread *all = calloc(n, sizeof(Thread));
    u32 *order = malloc(4 * (clusters + 1));
    for (u32 b = 0; b < one->cluster; b++) {
        shared[b].start = (u64)malloc(one->shared + 16), shared[b].marks = calloc(one->shared + 1, 16);
        shared[b].name = "shared memory";
        blocks[b] = (Block){0, one->threads, one->blocks, b, shared + b, all + b * one->threads};
    }
    arrange(order, clusters);
    for (u32 k = 0; k < clusters && !one->error[0]; k++) {
        number_threads(n, shared);
        cluster_base = next_thread;
        run_cluster(all, order[k] * one->cluster);
        next_thread += n;
    }
    for (u32 b = 0; b < one->cluster; b++) free((void *)shared[b].start), free(shared[b].marks);
    free(order), free(all), free(shared), free(blocks);
    return one->error[0] != 0;
}

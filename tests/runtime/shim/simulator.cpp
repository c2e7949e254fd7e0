// Runs a CUDA kernel on one CPU thread, one fiber for each CUDA thread.
//
// Fibers are switched at barriers, at warp exchanges and, by chance, at every access to memory that
// blocks or threads share; several blocks are under way at once. A seed decides every switch, so a
// run can be repeated. Beside the result the simulator reports
//   races    two threads touch a place, one of them writes, at least one of the two accesses is
//            neither atomic nor volatile, and no barrier or launch lies between;
//   strays   accesses outside every buffer; the thread ends there;
//   hangs    threads that wait for others that never come, or that never end.
// Memory is sequentially consistent here: what only a weaker order could break is not seen.
#include <stdint.h>
#include <stdio.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda.h"  // last: it redefines words that the standard library uses

Place threadIdx, blockIdx, blockDim, gridDim;

extern "C" __attribute__((weak, visibility("hidden"))) char __start_cuda_shared[];
extern "C" __attribute__((weak, visibility("hidden"))) char __stop_cuda_shared[];
// This library in memory: what the compiler keeps there is nobody's buffer.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], _end[];

namespace {

const size_t STACK = 32 * 1024;
const int WARP = 32;
const unsigned BLOCKS_AT_ONCE = 3;
const unsigned ONE_SWITCH_IN = 3;        // accesses
const unsigned ONE_BLOCK_CHANGE_IN = 4;  // switches
const int PATIENCE = 4;                  // times that a slow warp steps back
const int LONGEST_STALL = 256;           // turns between the two steps of what is no atomic
const long LONGEST = 5000000;            // accesses of a launch

enum class Wait { none, barrier, warp, ended };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    int thread;
    Wait wait;
};

struct Warp {
    unsigned long long offered[WARP], board[WARP];
    int arrived;
};

struct Block {
    Place place;
    int number;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> ready;
    std::vector<Warp> warps;
    std::vector<char> shared;
    int alive, waiting, epoch;
    int slow;  // warp that runs when others wait: what comes too late for a missing barrier
    int votes, verdict;
};

// Who touched a place last in one manner. MANY stands for several at once.
const int NOBODY = -1, MANY = -2;
struct Visit {
    int block = NOBODY, thread = NOBODY, epoch = 0;
};
enum Manner { READ, WRITE, ATOMIC, VOLATILE_READ, MANNERS };
struct History {
    Visit last[MANNERS];
};

struct Range {
    char* start;
    size_t size;

    bool holds(const char* place, size_t length) const {
        return place >= start && place + length <= start + size;
    }
};

std::vector<Range> ranges;
std::unordered_map<uintptr_t, History> histories;
std::string faults;
int faults_found;
long accesses;
std::mt19937 dice;
void (*entry)(void**);
void** entry_arguments;
ucontext_t scheduler;
Block* block;
Fiber* fiber;
bool is_running;

void report(const char* what, const void* where) {
    if (++faults_found > 8) return;
    char line[160];
    snprintf(line, sizeof line, "%s at %p by thread %d of block %d\n", what, where,
             fiber ? fiber->thread : NOBODY, block ? block->number : NOBODY);
    faults += line;
}

bool chance(unsigned one_in) { return dice() % one_in == 0; }

void back_to_scheduler() { swapcontext(&fiber->context, &scheduler); }

bool is_ordered(const Visit& before) {
    if (before.block == NOBODY) return true;
    if (before.block != block->number) return false;
    return before.thread == fiber->thread || before.epoch < block->epoch;
}

void remember(Visit& visit) {
    const Visit now = {block->number, fiber->thread, block->epoch};
    if (visit.block == NOBODY || (visit.block == now.block && visit.epoch < now.epoch))
        visit = now;
    else if (visit.block != now.block)
        visit.block = MANY;
    else if (visit.thread != now.thread)
        visit.thread = MANY;
}

void judge(uintptr_t place, Manner manner) {
    static const bool collides[MANNERS][MANNERS] = {
        // with an earlier READ, WRITE, ATOMIC, VOLATILE_READ
        {false, true, true, false},
        {true, true, true, true},
        {true, true, false, false},
        {false, true, false, false},
    };
    History& history = histories[place];
    for (int before = 0; before < MANNERS; ++before)
        if (collides[manner][before] && !is_ordered(history.last[before]))
            report("race", (void*)place);
    remember(history.last[manner]);
}

void stall() {
    for (int turns = dice() % LONGEST_STALL; turns > 0; --turns) back_to_scheduler();
}

void wait_for(Wait what) {
    fiber->wait = what;
    back_to_scheduler();
}

void end_thread(const char* why, const void* where) {
    report(why, where);
    --block->alive;
    wait_for(Wait::ended);
}

// What every access calls before it is done.
void touch(void* address, size_t size, Manner manner) {
    if (!is_running) return;
    if (++accesses > LONGEST) end_thread("hang", address);
    const char* place = (char*)address;
    for (const Range& range : ranges) {
        if (!range.holds(place, size)) continue;
        if (chance(ONE_SWITCH_IN)) back_to_scheduler();
        // Shared memory lies at one address for all blocks, and is another for each.
        const uintptr_t owner = &range == &ranges[0] ? (uintptr_t)(block->number + 1) << 48 : 0;
        // Words, or what is smaller than a word.
        for (size_t at = 0; at < size; at += 4) judge((uintptr_t)place + at + owner, manner);
        return;
    }
    const Range own = {__ehdr_start, (size_t)(_end - __ehdr_start)};
    const Range stack = {fiber->stack.get(), STACK};
    if (!own.holds(place, size) && !stack.holds(place, size)) end_thread("stray", address);
}

unsigned long long* exchange(unsigned long long value) {
    Warp& warp = block->warps[fiber->thread / WARP];
    warp.offered[fiber->thread % WARP] = value;
    ++warp.arrived;
    wait_for(Wait::warp);
    return warp.board;
}

void wake(Wait what, int from, int to) {
    for (int thread = from; thread < to; ++thread) {
        Fiber* waiting = block->fibers[thread].get();
        if (waiting->wait != what) continue;
        waiting->wait = Wait::none;
        block->ready.push_back(waiting);
    }
}

void release() {
    if (block->alive > 0 && block->waiting == block->alive) {
        block->verdict = block->votes;
        block->votes = block->waiting = 0;
        ++block->epoch;
        block->slow = dice() % block->warps.size();
        wake(Wait::barrier, 0, block->fibers.size());
    }
    Warp& warp = block->warps[fiber->thread / WARP];
    if (warp.arrived == WARP) {
        std::copy(warp.offered, warp.offered + WARP, warp.board);
        warp.arrived = 0;
        const int first = fiber->thread / WARP * WARP;
        wake(Wait::warp, first, first + WARP);
    }
}

void fiber_main() {
    entry(entry_arguments);
    --block->alive;
    wait_for(Wait::ended);
}

std::vector<std::unique_ptr<Fiber>> pool;

std::unique_ptr<Block> start(Place place, int number) {
    std::unique_ptr<Block> fresh(new Block{});
    const int threads = blockDim.x * blockDim.y;
    fresh->place = place;
    fresh->number = number;
    fresh->alive = threads;
    fresh->warps.resize(threads / WARP);
    fresh->slow = dice() % fresh->warps.size();
    fresh->shared.resize(__stop_cuda_shared - __start_cuda_shared);
    for (char& byte : fresh->shared) byte = dice();  // shared memory begins with garbage
    for (int thread = 0; thread < threads; ++thread) {
        if (pool.empty()) pool.emplace_back(new Fiber);
        fresh->fibers.push_back(std::move(pool.back()));
        pool.pop_back();
        Fiber* made = fresh->fibers.back().get();
        made->thread = thread;
        made->wait = Wait::none;
        getcontext(&made->context);
        made->context.uc_stack.ss_sp = made->stack.get();
        made->context.uc_stack.ss_size = STACK;
        made->context.uc_link = nullptr;
        makecontext(&made->context, fiber_main, 0);
        fresh->ready.push_back(made);
    }
    return fresh;
}

void enter(Block* next) {
    if (block == next) return;
    const size_t size = __stop_cuda_shared - __start_cuda_shared;
    if (block && size) memcpy(block->shared.data(), __start_cuda_shared, size);
    block = next;
    blockIdx = block->place;
    if (size) memcpy(__start_cuda_shared, block->shared.data(), size);
}

void step() {
    size_t chosen = dice() % block->ready.size();
    for (int again = 0; again < PATIENCE; ++again)
        if (block->ready[chosen]->thread / WARP == block->slow) chosen = dice() % block->ready.size();
    fiber = block->ready[chosen];
    threadIdx = {fiber->thread % blockDim.x, fiber->thread / blockDim.x};
    swapcontext(&scheduler, &fiber->context);
    if (fiber->wait == Wait::none) return;
    block->ready[chosen] = block->ready.back();
    block->ready.pop_back();
    if (fiber->wait == Wait::barrier) ++block->waiting;
    release();
}

}  // namespace

void __syncthreads() { wait_for(Wait::barrier); }
int __syncthreads_or(int predicate) {
    block->votes |= predicate != 0;
    wait_for(Wait::barrier);
    return block->verdict;
}
unsigned int __ballot_sync(unsigned int, int predicate) {
    const unsigned long long* board = exchange(predicate != 0);
    unsigned int word = 0;
    for (int lane = 0; lane < WARP; ++lane) word |= (unsigned int)board[lane] << lane;
    return word;
}
unsigned long long __shfl_up_sync(unsigned int, unsigned long long value, unsigned int distance) {
    const unsigned int lane = fiber->thread % WARP;
    const unsigned long long* board = exchange(value);
    return lane < distance ? value : board[lane - distance];
}
unsigned int __shfl_up_sync(unsigned int lanes, unsigned int value, unsigned int distance) {
    return __shfl_up_sync(lanes, (unsigned long long)value, distance);
}
unsigned long long __shfl_xor_sync(unsigned int, unsigned long long value, int distance) {
    const int lane = fiber->thread % WARP;
    return exchange(value)[lane ^ distance];
}
unsigned int __shfl_xor_sync(unsigned int lanes, unsigned int value, int distance) {
    return __shfl_xor_sync(lanes, (unsigned long long)value, distance);
}

#define ATOMIC(name, type, result)             \
    type atomic##name(type* place, type value) { \
        touch(place, sizeof *place, ATOMIC);     \
        const type before = *place;              \
        *place = result;                         \
        return before;                           \
    }                                            \
    type plain##name(type* place, type value) {  \
        touch(place, sizeof *place, READ);       \
        const type before = *place;              \
        stall();                                 \
        touch(place, sizeof *place, WRITE);      \
        *place = result;                         \
        return before;                           \
    }
ATOMIC(Add, unsigned int, before + value)
ATOMIC(Add, unsigned long long, before + value)
ATOMIC(Min, unsigned int, std::min(before, value))
ATOMIC(Max, unsigned int, std::max(before, value))

// Round to nearest, ties to even; what is too large becomes infinite.
unsigned short half_bits(float value) {
    int exponent;
    const float fraction = frexpf(fabsf(value), &exponent);  // 0.5 <= fraction < 1
    const unsigned short sign = signbit(value) ? 0x8000 : 0;
    if (value == 0.0f) return sign;
    if (exponent > 16) return sign + 0x7C00;
    const int scale = std::max(exponent, -13);  // below, halves are denormal
    const int units = (int)rintf(ldexpf(fraction, exponent - scale + 11));
    return sign + (scale + 13) * 1024 + units;
}

extern "C" {

// Run one kernel; what was wrong is written to `said`, a line each. Returns how much that was.
int simulate(void (*kernel)(void**), void** arguments, const unsigned* grid, const unsigned* size,
             const uintptr_t* buffers, int buffer_count, unsigned seed, char* said, int room) {
    entry = kernel;
    entry_arguments = arguments;
    gridDim = {grid[0], grid[1]};
    blockDim = {size[0], size[1]};
    dice.seed(seed);
    faults.clear();
    faults_found = 0;
    accesses = 0;
    histories.clear();
    ranges.assign(1, {__start_cuda_shared, (size_t)(__stop_cuda_shared - __start_cuda_shared)});
    for (int i = 0; i < buffer_count; ++i)
        ranges.push_back({(char*)buffers[2 * i], buffers[2 * i + 1]});
    std::vector<unsigned> order(grid[0] * grid[1]);
    for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), dice);
    std::vector<std::unique_ptr<Block>> live;
    is_running = true;
    while (!order.empty() || !live.empty()) {
        while (!order.empty() && live.size() < BLOCKS_AT_ONCE) {
            const unsigned number = order.back();
            order.pop_back();
            live.push_back(start({number % grid[0], number / grid[0]}, number));
        }
        size_t chosen = dice() % live.size();
        enter(live[chosen].get());
        do {
            step();
        } while (!block->ready.empty() && !chance(ONE_BLOCK_CHANGE_IN));
        if (!block->ready.empty()) continue;
        if (block->alive > 0) report("hang", nullptr);
        for (auto& used : block->fibers) pool.push_back(std::move(used));
        live.erase(live.begin() + chosen);
        block = nullptr;
        fiber = nullptr;
    }
    is_running = false;
    snprintf(said, room, "%s", faults.c_str());
    return faults_found;
}

// What the compiler's instrumentation calls.
#define HOOKS(size)                                                             \
    void __tsan_read##size(void* p) { touch(p, size, READ); }                     \
    void __tsan_write##size(void* p) { touch(p, size, WRITE); }                   \
    void __tsan_unaligned_read##size(void* p) { touch(p, size, READ); }           \
    void __tsan_unaligned_write##size(void* p) { touch(p, size, WRITE); }         \
    void __tsan_volatile_read##size(void* p) { touch(p, size, VOLATILE_READ); }   \
    void __tsan_volatile_write##size(void* p) { touch(p, size, WRITE); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, size_t size) { touch(p, size, READ); }
void __tsan_write_range(void* p, size_t size) { touch(p, size, WRITE); }
void __tsan_init() {}
}

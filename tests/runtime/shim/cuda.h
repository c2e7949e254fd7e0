// What a kernel file finds where CUDA C++ would have its built-ins. The kernel is compiled as C++
// and every access to memory calls `touch` in simulator.cpp (-fsanitize=thread without its library).
#pragma once

#include <math.h>
#include <string.h>

#include <utility>

#define __global__
#define __device__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __noinline__ __attribute__((noinline))
// One instance for all blocks: the simulator swaps its contents with the block it runs.
#define __shared__ static __attribute__((section("cuda_shared")))

struct Place {
    unsigned int x, y;
};
extern Place threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads();
int __syncthreads_or(int predicate);
unsigned int __ballot_sync(unsigned int lanes, int predicate);
unsigned int __shfl_up_sync(unsigned int lanes, unsigned int value, unsigned int distance);
unsigned int __shfl_xor_sync(unsigned int lanes, unsigned int value, int distance);
unsigned long long __shfl_xor_sync(unsigned int lanes, unsigned long long value, int distance);
unsigned long long __shfl_up_sync(
    unsigned int lanes, unsigned long long value, unsigned int distance);

// Each atomic, and beside it the same in two steps: what a kernel gets that forgot the atomic.
#define ATOMIC(name, type)         \
    type atomic##name(type*, type); \
    type plain##name(type*, type);
ATOMIC(Add, unsigned int)
ATOMIC(Add, unsigned long long)
ATOMIC(Min, unsigned int)
ATOMIC(Max, unsigned int)
#undef ATOMIC

template <typename T>
T __ldg(const T* from) {
    return *from;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned int min(unsigned int a, unsigned int b) { return a < b ? a : b; }
inline unsigned int max(unsigned int a, unsigned int b) { return a > b ? a : b; }
inline int abs(int value) { return value < 0 ? -value : value; }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(value); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double value) { return sqrt(value); }
inline float __saturatef(float value) { return fminf(fmaxf(value, 0.0f), 1.0f); }
inline unsigned int __float_as_uint(float value) {
    unsigned int bits;
    memcpy(&bits, &value, 4);
    return bits;
}
inline unsigned int __float2uint_rn(float value) {
    if (!(value > 0.0f)) return 0;
    return value >= 4294967296.0f ? 0xFFFFFFFFu : (unsigned int)rint((double)value);
}
unsigned short half_bits(float value);

template <typename... T, size_t... I>
__attribute__((no_sanitize("thread"))) void unpack(void (*kernel)(T...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<T*>(arguments[I])...);
}
template <typename... T>
void call(void (*kernel)(T...), void** arguments) {
    unpack(kernel, arguments, std::index_sequence_for<T...>());
}
// Sizes of the parameters, ended by 0.
template <typename... T>
const int* sizes(void (*)(T...)) {
    static const int found[] = {(int)sizeof(T)..., 0};
    return found;
}
#define KERNEL(name)                                                     \
    extern "C" void call_##name(void** arguments) { call(name, arguments); } \
    extern "C" const int* sizes_##name() { return sizes(name); }

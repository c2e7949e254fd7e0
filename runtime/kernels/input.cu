// The type of the network's input, and how a float32 becomes one. Stands in front of the kernels that
// write the input (prepare.cu, stack.cu) and is compiled with them as one program, since NVRTC is
// given no folder to include from.
//
// Compile with -DINPUT_BYTES=2|4 (FP16, FP32).

#if INPUT_BYTES == 2
typedef unsigned short Input;
#ifdef __CUDACC__
// The instruction itself, since cuda_fp16.h is not on the path of every NVRTC.
__device__ unsigned short half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif
__device__ Input stored(float value) { return half_bits(value); }
#else
typedef float Input;
__device__ Input stored(float value) { return value; }
#endif


// A raw sensor frame becomes the network's input: runtime/frame.py on the device, bit for bit.
//
// find_limits reads the frame and leaves four numbers. prepare_resized or prepare_padded reads it
// again, repairs defects, normalises, fits and writes the network's input once. No intermediate
// frame exists: a defect is known from the 3x3 pixels around it and the span alone, so each thread
// repairs the pixels that it is about to blend. Two neighbours acquit all but a handful of pixels.
//
// Traffic, sensor of two bytes a pixel to a 512x512 network, and what it takes on a Jetson AGX
// Orin (204.8 GB/s; an Orin NX has half). The second read comes out of the 4 MB L2 cache where the
// frame fits into it, so the truth lies between the last two columns:
//
//     sensor      input   read twice     written    all from memory   second read from L2
//     640x512     FP32    2 x 0.655 MB   1.049 MB   11.5 us           8.3 us
//     640x512     FP16    2 x 0.655 MB   0.524 MB    9.0 us           5.8 us
//     1280x1024   FP32    2 x 2.621 MB   1.049 MB   30.7 us          17.9 us
//     1280x1024   FP16    2 x 2.621 MB   0.524 MB   28.2 us          15.4 us
//
// One read is not enough: no pixel can be normalised before the last one was seen.
// Loads are one pixel wide so that any pitch, width and sample type takes the same way. Each thread
// has 8 (find_limits) or 12 (prepare) of them under way at once: 16 bytes and more for each of 1536
// threads of an SM are 24 kB in flight, and 204.8 GB/s at 600 ns need 7.7 kB from each of 16 SMs.
//
// Every float operation is the correctly rounded one of numpy in the same order (__fmul_rn and its
// kin are never fused), so do not compile with --use_fast_math. What numpy computes in float64
// (positions, shares) is done here in integers: Jetsons do float64 at 1/64 of the speed. numpy's
// float64 positions differ from the exact ones by 1e-13; that shows in 1 of 7000 taps, as one unit
// in the last place of its weight.
//
// Compile with -DSAMPLE_BYTES=1|2 (uint8, uint16), -DINPUT_BYTES=2|4 (FP16, FP32) and
// -DSTRETCH=0|1 (full-scale, stretch). Grids and blocks: runtime/launches.py. Frames have at least
// 8x8 pixels (SMALLEST_SIDE).

#if SAMPLE_BYTES == 2
typedef unsigned short Sample;
#else
typedef unsigned char Sample;
#endif

#define BLOCK_ROWS 8  // blocks are 32x8 threads: a warp is 32 pixels of one row
#define PAIRS 7       // pairs of rows that a thread of find_limits compares
#define ROWS 4        // rows of the input that a thread of prepare_* writes
#define WHITE 65535   // minima are kept as WHITE - value: all four limits are maxima from zero

struct Frame {
    const unsigned char* bytes;
    int pitch;  // bytes from one row to the next
    int height;
    int width;
};

__device__ int at(Frame frame, int row, int column) {
    const unsigned char* line = frame.bytes + (long long)row * frame.pitch;
    // The read-only path: without it no load may overtake the store of the row before.
    return __ldg((const Sample*)line + column);
}

// Find the range of a frame that single dead, hot or saturated pixels cannot move.
//
//     frame    (height, pitch) bytes: rows of width samples
//     limits   (4,) zero before the launch. [0] brightest level that some 2x2 block reaches with
//              all four pixels, [1] WHITE - the darkest such level, [2] brightest pixel,
//              [3] WHITE - darkest pixel; in counts
extern "C" __global__ void find_limits(
    const unsigned char* frame, int pitch, int height, int width, unsigned int* limits
) {
    const Frame view = {frame, pitch, height, width};
    // What hangs over the border moves inwards: seeing a block twice changes no maximum.
    const int column = min((int)(blockIdx.x * 32 + threadIdx.x), width - 2);
    const int row = min((int)(blockIdx.y * BLOCK_ROWS + threadIdx.y) * PAIRS, height - 1 - PAIRS);
    int one = at(view, row, column), other = at(view, row, column + 1);
    int dark = min(one, other), bright = max(one, other);
    int found[4] = {0, 0, bright, WHITE - dark};
#pragma unroll
    for (int pair = 1; pair <= PAIRS; ++pair) {
        one = at(view, row + pair, column);
        other = at(view, row + pair, column + 1);
        const int darker = min(one, other), brighter = max(one, other);
        found[0] = max(found[0], min(dark, darker));
        found[1] = max(found[1], WHITE - max(bright, brighter));
        found[2] = max(found[2], brighter);
        found[3] = max(found[3], WHITE - darker);
        dark = darker;
        bright = brighter;
    }
    // Warp, block, frame: each step leaves 1/32 or 1/8 of the atomics to the next.
    __shared__ unsigned int best[4];
    const int thread = threadIdx.y * 32 + threadIdx.x;
    if (thread < 4) best[thread] = 0;
    __syncthreads();
#pragma unroll
    for (int limit = 0; limit < 4; ++limit) {
        unsigned int value = found[limit];
        for (int distance = 16; distance > 0; distance /= 2)
            value = max(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
        if (threadIdx.x == 0) atomicMax(&best[limit], value);
    }
    __syncthreads();
    if (thread < 4) atomicMax(&limits[thread], best[thread]);
}

struct Levels {
    int low;    // counts that become 0
    int span;   // counts from 0 to 1; for the repair
    float scale;
};

__device__ Levels levels_of(const unsigned int* limits, int largest) {
    Levels levels = {0, largest, 0.0f};
    if (STRETCH) {
        const bool has_range = (int)limits[0] > WHITE - (int)limits[1];
        const int high = has_range ? limits[0] : limits[2];
        levels.low = WHITE - (int)(has_range ? limits[1] : limits[3]);
        levels.span = high - levels.low;
    }
    // numpy rounds the float64 quotient to float32: for 1 / 1 to 1 / 65535 this is the same.
    levels.scale = __fdiv_rn(1.0f, (float)max(levels.span, 1));
    return levels;
}

// A pixel between its neighbours in the row, the border mirrored; in counts.
struct Three {
    int left;
    int value;
    int right;
};

__device__ Three three_at(Frame frame, int row, int column) {
    const int left = column > 0 ? column - 1 : 1;
    const int right = column < frame.width - 1 ? column + 1 : column - 1;
    const Three found = {at(frame, row, left), at(frame, row, column), at(frame, row, right)};
    return found;
}

// How far a pixel must leave the range of its neighbours to be a defect, in counts.
__device__ int defect_step(int span) { return max(span / 4, 1); }

// Whether neighbours that share `range` counts leave `height` counts alone: range < 0.15 * height.
__device__ bool stands_alone(int range, int height) { return 20 * range < 3 * height; }

// One pixel in counts; a defect takes the nearest value of its 8 neighbours (repair_defects). So
// few pixels come here that the code stays out of the way of the others.
__device__ __noinline__ int repaired(Frame frame, int row, int column, int span) {
    const Three here = three_at(frame, row, column);
    const Three above = three_at(frame, row > 0 ? row - 1 : 1, column);
    const Three below = three_at(frame, row < frame.height - 1 ? row + 1 : row - 1, column);
    const int around[8] = {here.left, here.right, above.left, above.value, above.right,
                           below.left, below.value, below.right};
    int highest = around[0], lowest = around[0];
#pragma unroll
    for (int neighbour = 1; neighbour < 8; ++neighbour) {
        highest = max(highest, around[neighbour]);
        lowest = min(lowest, around[neighbour]);
    }
    const int value = here.value, range = highest - lowest, step = defect_step(span);
    if (value - highest > step && stands_alone(range, value - lowest)) return highest;
    if (lowest - value > step && stands_alone(range, highest - value)) return lowest;
    return value;
}

// One pixel of the normalised frame, 0..1. `seen` is the pixel, loaded before: where a thread needs
// several, it asks for all of them before it looks at one.
__device__ float normalised(Frame frame, int row, int column, Three seen, Levels levels) {
    int value = seen.value;
    if (!STRETCH) return __fmul_rn((float)value, levels.scale);
    // The range of all 8 neighbours is no narrower than that of these two.
    const int step = defect_step(levels.span);
    const bool is_suspect = value - max(seen.left, seen.right) > step ||
                            min(seen.left, seen.right) - value > step;
    if (is_suspect) value = repaired(frame, row, column, levels.span);
    const float level = __fmul_rn((float)(value - levels.low), levels.scale);
    return fminf(fmaxf(level, 0.0f), 1.0f);
}

// Where a cell of the input lies between the centres of two of the sensor's pixels (_taps).
struct Tap {
    int first;
    int second;
    float fraction;  // weight of the second
};

__device__ Tap tap(int cell, int cells, int pixels) {
    // (cell + 0.5) * pixels / cells - 0.5, held between the outermost centres, over 2 * cells.
    const unsigned int whole = 2u * cells;
    const unsigned int centre = (2u * cell + 1u) * pixels;
    unsigned int place = centre > (unsigned int)cells ? centre - cells : 0u;
    place = min(place, whole * (pixels - 1u));
    const int first = place / whole;
    const float fraction = __fdiv_rn((float)(place - first * whole), (float)whole);
    const Tap found = {first, min(first + 1, pixels - 1), fraction};
    return found;
}

__device__ float blend(float first, float second, float fraction) {
    return __fadd_rn(__fmul_rn(__fsub_rn(second, first), fraction), first);
}

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

// Normalise a frame and interpolate it bilinearly to the network's size.
//
//     frame    (height, pitch) bytes: rows of width samples
//     limits   (4,) from find_limits; read under stretch only
//     largest  largest value of the bit depth, counts; read under full-scale only
//     input    (rows, columns) FP32 or FP16, 0..1
extern "C" __global__ void prepare_resized(
    const unsigned char* frame, int pitch, int height, int width, const unsigned int* limits,
    int largest, Input* input, int rows, int columns
) {
    const Frame view = {frame, pitch, height, width};
    const int column = blockIdx.x * 32 + threadIdx.x;
    if (column >= columns) return;
    const Levels levels = levels_of(limits, largest);
    const Tap across = tap(column, columns, width);
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const int row = (blockIdx.y * ROWS + step) * BLOCK_ROWS + threadIdx.y;
        if (row >= rows) return;
        const Tap down = tap(row, rows, height);
        const Three above_left = three_at(view, down.first, across.first);
        const Three below_left = three_at(view, down.second, across.first);
        const Three above_right = three_at(view, down.first, across.second);
        const Three below_right = three_at(view, down.second, across.second);
        const float left = blend(
            normalised(view, down.first, across.first, above_left, levels),
            normalised(view, down.second, across.first, below_left, levels), down.fraction);
        const float right = blend(
            normalised(view, down.first, across.second, above_right, levels),
            normalised(view, down.second, across.second, below_right, levels), down.fraction);
        input[(long long)row * columns + column] = stored(blend(left, right, across.fraction));
    }
}

// The pixel that a mirror behind the last one shows, the last one twice.
__device__ int mirrored(int place, int pixels) {
    if (place < pixels) return place;
    const int within = place % (2 * pixels);
    return within < pixels ? within : 2 * pixels - 1 - within;
}

// Normalise a frame and mirror its lower and right border up to the network's size, which may be
// the frame's own. Parameters as in prepare_resized; rows >= height, columns >= width.
extern "C" __global__ void prepare_padded(
    const unsigned char* frame, int pitch, int height, int width, const unsigned int* limits,
    int largest, Input* input, int rows, int columns
) {
    const Frame view = {frame, pitch, height, width};
    const int column = blockIdx.x * 32 + threadIdx.x;
    if (column >= columns) return;
    const Levels levels = levels_of(limits, largest);
    const int from = mirrored(column, width);
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const int row = (blockIdx.y * ROWS + step) * BLOCK_ROWS + threadIdx.y;
        if (row >= rows) return;
        const int line = mirrored(row, height);
        const float value = normalised(view, line, from, three_at(view, line, from), levels);
        input[(long long)row * columns + column] = stored(value);
    }
}

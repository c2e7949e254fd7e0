// A raw sensor frame becomes the network's input: runtime/frame.py on the device, bit for bit.
//
// find_limits reads the frame and leaves four numbers. prepare_resized or prepare_padded reads it
// again, repairs defects, normalises, fits and writes the network's input once. There is no frame in
// between: a defect is known from the 3x3 pixels around it and the span alone, so each thread
// repairs the pixels that it is about to blend, and the pixels that it loads anyway acquit all but a
// handful: a defect leaves the range of all its neighbours, so of the one beside and the one below.
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
// One read is not enough: no pixel can be normalised before the last one was seen. Launches come on
// top, two of a few us each unless they are captured in a CUDA graph. Arithmetic stays below: on
// sm_87 a pixel of the input takes about 64 instructions, 512x512 of them 6.3 us on 16 SMs at
// 1.3 GHz. Hence no float64 (a Jetson has 1/64 of its float32 speed) and no integer division: what
// numpy computes so are the taps, the same for every frame, which come as tables.
//
// Loads are one pixel wide so that any pitch, width and sample type takes the same way; a warp's
// 32 lie side by side. These are bounds by arithmetic, not measurements.
//
// Every float operation is numpy's correctly rounded one in numpy's order (__fmul_rn and its kin are
// never fused), so do not compile with --use_fast_math.
//
// Compile behind input.cu with -DSAMPLE_BYTES=1|2 (uint8, uint16), -DINPUT_BYTES=2|4 (FP16, FP32),
// -DSTRETCH=0|1 (full-scale, stretch) and -DREPAIR=0|1 (defects, under stretch only). Grids and
// blocks: runtime/launches.py. Frames have at least 8x8 pixels (SMALLEST_SIDE).

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
    const unsigned char* line = frame.bytes + (unsigned int)row * (unsigned int)frame.pitch;
    // The read-only path: otherwise no load may overtake the store of the row before.
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
    int low;      // counts that become 0
    float scale;  // 1 / counts from 0 to 1
    int span;     // counts from low to high
};

__device__ Levels levels_of(const unsigned int* limits, int largest) {
    int low = 0, high = largest;
    if (STRETCH) {
        const bool has_range = (int)limits[0] > WHITE - (int)limits[1];
        high = has_range ? limits[0] : limits[2];
        low = WHITE - (int)(has_range ? limits[1] : limits[3]);
    }
    // numpy rounds the float64 quotient to float32: for 1 / 1 to 1 / 65535 this is the same.
    const Levels levels = {low, __fdiv_rn(1.0f, (float)max(high - low, 1)), high - low};
    return levels;
}

// The neighbour after a pixel, or behind the border the one before it, as a mirror shows it.
__device__ int after(int place, int pixels) { return place < pixels - 1 ? place + 1 : place - 1; }

__device__ int before(int place) { return place > 0 ? place - 1 : 1; }

// How far a pixel must leave the range of its neighbours to be a defect, in counts.
__device__ int defect_step(Levels levels) { return max(levels.span / 4, 1); }

// Whether neighbours that share `range` counts leave `height` counts alone: range < 0.15 * height.
__device__ bool stands_alone(int range, int height) { return 20 * range < 3 * height; }

// One pixel in counts; a defect takes the nearest value of its 8 neighbours (repair_defects). Few
// pixels come here, so the code stays out of the way of the others.
__device__ __noinline__ int repaired(Frame frame, int row, int column, Levels levels) {
    const int rows[3] = {before(row), row, after(row, frame.height)};
    const int columns[3] = {before(column), column, after(column, frame.width)};
    const int value = at(frame, row, column), step = defect_step(levels);
    int highest = 0, lowest = WHITE;
#pragma unroll
    for (int place = 0; place < 9; ++place) {
        if (place == 4) continue;  // the pixel itself
        const int neighbour = at(frame, rows[place / 3], columns[place % 3]);
        highest = max(highest, neighbour);
        lowest = min(lowest, neighbour);
    }
    const int range = highest - lowest;
    if (value - highest > step && stands_alone(range, value - lowest)) return highest;
    if (lowest - value > step && stands_alone(range, highest - value)) return lowest;
    return value;
}

__device__ float normalised(int value, Levels levels) {
    // Within full-scale nothing is clipped: above `largest` a frame is refused.
    return __saturatef(__fmul_rn((float)(value - levels.low), levels.scale));
}

__device__ float blend(float first, float second, float fraction) {
    return __fadd_rn(__fmul_rn(__fsub_rn(second, first), fraction), first);
}

// Where a cell of the input lies between the centres of two of the sensor's pixels.
struct __align__(8) Tap {
    int first;       // the pixel at or before; the other is the one after
    float fraction;  // weight of the other; 0 where the border has none
};

// Normalise a frame and interpolate it bilinearly to the network's size.
//
//     frame         (height, pitch) bytes: rows of width samples
//     limits        (4,) from find_limits; read under stretch only
//     largest       largest value of the bit depth, counts; read under full-scale only
//     input         (rows, columns) out: FP32 or FP16, 0..1
//     row_taps      (rows,) places of the input's rows in the frame
//     column_taps   (columns,)
extern "C" __global__ void prepare_resized(
    const unsigned char* frame, int pitch, int height, int width, const unsigned int* limits,
    int largest, Input* __restrict__ input, int rows, int columns,
    const Tap* __restrict__ row_taps, const Tap* __restrict__ column_taps
) {
    const Frame view = {frame, pitch, height, width};
    const int column = blockIdx.x * 32 + threadIdx.x;
    if (column >= columns) return;
    const Levels levels = levels_of(limits, largest);
    const Tap across = column_taps[column];
    const int left = across.first, right = after(left, width);
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const int row = (blockIdx.y * ROWS + step) * BLOCK_ROWS + threadIdx.y;
        if (row >= rows) return;
        const Tap down = row_taps[row];
        const int upper = down.first, lower = after(upper, height);
        int a = at(view, upper, left), b = at(view, upper, right);
        int c = at(view, lower, left), d = at(view, lower, right);
        // A defect differs from its neighbours on both axes, and both are among these four.
        const int differs_across = max(abs(a - b), abs(c - d));
        const int differs_down = max(abs(a - c), abs(b - d));
        if (REPAIR && min(differs_across, differs_down) > defect_step(levels)) {
            a = repaired(view, upper, left, levels);
            b = repaired(view, upper, right, levels);
            c = repaired(view, lower, left, levels);
            d = repaired(view, lower, right, levels);
        }
        const float here = blend(normalised(a, levels), normalised(c, levels), down.fraction);
        const float there = blend(normalised(b, levels), normalised(d, levels), down.fraction);
        input[(unsigned int)row * columns + column] = stored(blend(here, there, across.fraction));
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
        int value = at(view, line, from);
        if (REPAIR) {
            const int across = abs(value - at(view, line, after(from, width)));
            const int down = abs(value - at(view, after(line, height), from));
            if (min(across, down) > defect_step(levels)) value = repaired(view, line, from, levels);
        }
        input[(unsigned int)row * columns + column] = stored(normalised(value, levels));
    }
}

// A clip out of a ring of prepared frames: runtime/clip.py on the device, bit for bit.
//
// keep_frame, or keep_measured, puts the newest prepared frame into its place of the ring; the
// latter also sums its levels. match_levels makes mean and deviation of the sums, and says how the
// levels of each older frame of the clip become the newest one's. stack_moved, or stack_copied,
// writes the network's input: each older frame moved onto the newest, and the newest itself.
//
// What changes from frame to frame (places in the ring, shifts) comes in a table, so that the
// launches are always the same and can be one CUDA graph. Shifts come as whole pixels and weights
// (runtime/interpolation.py), so that no device computes them in float64.
//
// Traffic, clip of 8 frames of 256x256, and what it takes on a Jetson AGX Orin (204.8 GB/s): the
// newest frame is read and written once, 0.5 MB, 2.6 us; the eight are read and written once, each
// pixel's fifteen neighbours out of the caches: 4.2 MB, 20.5 us, with FP16 out 3.1 MB, 15.4 us.
// Arithmetic is about as much: some 120 instructions a pixel of the seven older frames, 55 million,
// 20.7 us on 16 SMs at 1.3 GHz. Looking for hot pixels reads all frames of the ring once more, 15
// of them 3.9 MB, 19 us. These are bounds by arithmetic, not measurements.
//
// Sums are of whole numbers, which come out the same in any order of threads. Every float operation
// is numpy's correctly rounded one in numpy's order; float64 is computed by one thread a frame of
// the clip. Do not compile with --use_fast_math.
//
// Compile behind input.cu with -DINPUT_BYTES=2|4 (FP16, FP32). Grids and blocks:
// runtime/launches.py.

#define BLOCK_ROWS 8       // blocks are 32x8 threads
#define ROWS 4             // rows that a thread takes
#define UNIT 1048576.0f    // 2^20: what 1.0 counts in the sums; LEVEL_UNIT of runtime/levels.py
#define LANES 0xFFFFFFFFu
#define LASTING_STEP 0.125f  // as in runtime/defects.py

// How one side of a frame is filled; MovedSide in runtime/interpolation.py.
struct Side {
    int start;         // first pixel that shows the frame
    int stop;          // pixel after the last
    int first;         // place in the frame of the first of the four pixels that make pixel `start`
    float weights[4];  // of these four
};

// A frame of the clip; PLACED in runtime/launches.py.
struct Placed {
    int frame;  // its place in the ring
    Side rows;
    Side columns;
};

// Put a prepared frame into the ring.
//
//     prepared  (rows, columns) FP32
//     places    (newest + 1,) frames of the clip, the newest last
//     ring      (frames, rows, columns) out
extern "C" __global__ void keep_frame(
    const float* prepared, int rows, int columns, const Placed* places, int newest, float* ring
) {
    float* kept = ring + (long long)places[newest].frame * rows * columns;
    const int column = blockIdx.x * 32 + threadIdx.x;
    if (column >= columns) return;
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const int row = (blockIdx.y * ROWS + step) * BLOCK_ROWS + threadIdx.y;
        if (row < rows) kept[row * columns + column] = prepared[row * columns + column];
    }
}

// The same, and sum the levels of what shows the sensor's frame.
//
//     height, width  rows and columns that show the sensor's frame
//     sums           (2,) zero before the launch; [0] levels, [1] their squares, 1.0 counted as UNIT
extern "C" __global__ void keep_measured(
    const float* prepared, int rows, int columns, int height, int width, const Placed* places,
    int newest, float* ring, unsigned long long* sums
) {
    __shared__ unsigned long long found[2];
    float* kept = ring + (long long)places[newest].frame * rows * columns;
    const int column = blockIdx.x * 32 + threadIdx.x;
    unsigned long long total = 0, squares = 0;
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const int row = (blockIdx.y * ROWS + step) * BLOCK_ROWS + threadIdx.y;
        if (row >= rows || column >= columns) continue;
        const float value = prepared[row * columns + column];
        kept[row * columns + column] = value;
        if (row >= height || column >= width) continue;
        const unsigned long long level = __float2uint_rn(value * UNIT);
        total += level;
        squares += level * level;
    }
    const int thread = threadIdx.y * 32 + threadIdx.x;
    if (thread < 2) found[thread] = 0;
    __syncthreads();
    for (int distance = 16; distance > 0; distance /= 2) {
        total += __shfl_xor_sync(LANES, total, distance);
        squares += __shfl_xor_sync(LANES, squares, distance);
    }
    if (threadIdx.x == 0) {
        atomicAdd(&found[0], total);
        atomicAdd(&found[1], squares);
    }
    __syncthreads();
    if (thread < 2) atomicAdd(&sums[thread], found[thread]);
}

// Note mean and deviation of the newest frame, and match the older ones to it; one block.
//
//     sums    (2,) from keep_measured
//     pixels  that were summed
//     levels  (frames, 2) mean and deviation of each frame of the ring, in units; the newest's: out
//     match   (newest, 2) out: gain and offset of each older frame of the clip
extern "C" __global__ void match_levels(
    const unsigned long long* sums, int pixels, const Placed* places, int newest, double* levels,
    float* match
) {
    const double* now = levels + 2 * places[newest].frame;
    if (threadIdx.x == 0) {
        const double mean = __ddiv_rn((double)sums[0], (double)pixels);
        const double squares = __ddiv_rn((double)sums[1], (double)pixels);
        const double variance = __dsub_rn(squares, __dmul_rn(mean, mean));
        levels[2 * places[newest].frame] = mean;
        levels[2 * places[newest].frame + 1] = __dsqrt_rn(variance > 0.0 ? variance : 0.0);
    }
    __syncthreads();
    for (int older = threadIdx.x; older < newest; older += blockDim.x) {
        const double* before = levels + 2 * places[older].frame;
        const double gain = before[1] >= 1.0 ? __ddiv_rn(now[1], before[1]) : 1.0;
        const double offset = __dsub_rn(now[0], __dmul_rn(gain, before[0]));
        match[2 * older] = (float)gain;
        match[2 * older + 1] = (float)__ddiv_rn(offset, (double)UNIT);
    }
}

__device__ int within(int place, int pixels) { return min(max(place, 0), pixels - 1); }

// Behind the border a mirror shows the neighbour on the other side.
__device__ int mirrored(int place, int pixels) {
    return place < 0 ? 1 : place < pixels ? place : pixels - 2;
}

// The frames of the ring, as hot pixels are looked for.
struct Watched {
    const float* ring;
    int frames;   // that are looked at; 0 where nothing is
    int rows, columns;
    int height, width;  // of what shows the sensor's frame
};

__device__ float lowest(Watched seen, int row, int column) {
    const long long pixels = (long long)seen.rows * seen.columns;
    const float* pixel = seen.ring + row * seen.columns + column;
    float least = *pixel;
#pragma unroll 1  // unrolled, the loops take twice the registers that a block may have
    for (int frame = 1; frame < seen.frames; ++frame) least = fminf(least, pixel[frame * pixels]);
    return least;
}

// A pixel of the newest frame; a hot one comes down to its highest neighbour (repair_lasting).
// Nearly all pixels are let go by the pixel itself or by the first of their neighbours.
__device__ __noinline__ float repaired(Watched seen, const float* own, int row, int column) {
    const float value = own[row * seen.columns + column];
    if (!seen.frames || row >= seen.height || column >= seen.width) return value;
    const float least = lowest(seen, row, column);
    if (!(least > LASTING_STEP)) return value;
    float highest = 0.0f;
#pragma unroll 1
    for (int place = 0; place < 9; ++place) {
        if (place == 4) continue;  // the pixel itself
        const int down = mirrored(row + place / 3 - 1, seen.height);
        const int across = mirrored(column + place % 3 - 1, seen.width);
        if (!(__fsub_rn(least, lowest(seen, down, across)) > LASTING_STEP)) return value;
        highest = fmaxf(highest, own[down * seen.columns + across]);
    }
    return fminf(value, highest);
}

// Stack the clip, each older frame brought to the newest's levels and moved onto it.
//
//     ring           (frames, rows, columns)
//     height, width  rows and columns that show the sensor's frame; what is moved ends there
//     places         (newest + 1,)
//     watched        frames of the ring by which hot pixels of the newest are known; 0: none is
//     match          (newest, 2) from match_levels
//     input          (newest + 1, rows, columns) out: FP32 or FP16
//     the grid's rows are those of each frame, one frame after another
extern "C" __global__ void stack_moved(
    const float* ring, int rows, int columns, int height, int width, const Placed* places,
    int newest, int watched, const float* match, Input* input
) {
    const int lines = gridDim.y / (newest + 1);
    const int number = blockIdx.y / lines, first = blockIdx.y % lines * ROWS * BLOCK_ROWS;
    const int column = blockIdx.x * 32 + threadIdx.x;
    if (column >= columns) return;
    const Placed place = places[number];
    const float* own = ring + (long long)places[newest].frame * rows * columns;
    const Watched seen = {ring, watched, rows, columns, height, width};
    const float* older = ring + (long long)place.frame * rows * columns;
    Input* stacked = input + (long long)number * rows * columns;
    const bool is_older = number < newest;
    const float gain = is_older ? match[2 * number] : 1.0f;
    const float offset = is_older ? match[2 * number + 1] : 0.0f;
    const bool is_across = is_older && column >= place.columns.start && column < place.columns.stop;
    const int left = place.columns.first + column - place.columns.start;
    for (int step = 0; step < ROWS; ++step) {
        const int row = first + step * BLOCK_ROWS + threadIdx.y;
        if (row >= rows) return;
        if (!is_across || row < place.rows.start || row >= place.rows.stop) {
            stacked[row * columns + column] = stored(repaired(seen, own, row, column));
            continue;
        }
        const int top = place.rows.first + row - place.rows.start;
        float value = 0.0f;
#pragma unroll
        for (int across = 0; across < 4; ++across) {
            const float* line = older + within(left + across, width);
            float strip = 0.0f;
#pragma unroll
            for (int down = 0; down < 4; ++down) {
                const float pixel = line[within(top + down, height) * columns];
                const float level = __fadd_rn(__fmul_rn(pixel, gain), offset);
                strip = __fadd_rn(strip, __fmul_rn(place.rows.weights[down], level));
            }
            value = __fadd_rn(value, __fmul_rn(place.columns.weights[across], strip));
        }
        stacked[row * columns + column] = stored(value);
    }
}

// Stack the clip, the frames left as they are; parameters as in stack_moved.
extern "C" __global__ void stack_copied(
    const float* ring, int rows, int columns, int height, int width, const Placed* places,
    int newest, int watched, Input* input
) {
    const int lines = gridDim.y / (newest + 1);
    const int number = blockIdx.y / lines, first = blockIdx.y % lines * ROWS * BLOCK_ROWS;
    const int column = blockIdx.x * 32 + threadIdx.x;
    if (column >= columns) return;
    const float* own = ring + (long long)places[newest].frame * rows * columns;
    const Watched seen = {ring, watched, rows, columns, height, width};
    const float* older = ring + (long long)places[number].frame * rows * columns;
    Input* stacked = input + (long long)number * rows * columns;
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const int row = first + step * BLOCK_ROWS + threadIdx.y;
        if (row >= rows) return;
        // What pads the older frame is not what pads the newest.
        const bool is_older = number < newest && row < height && column < width;
        const int place = row * columns + column;
        stacked[place] = stored(is_older ? older[place] : repaired(seen, own, row, column));
    }
}

// A confidence map becomes records of its targets: runtime/components.py and the sums of
// runtime/targets.py on the device. Dividing, scaling and sorting the few records that come back is
// the host's (runtime/measurements.py): numpy does it in float64, which a GPU does slowly.
//
// label_tiles   one block a tile of 32x32. Runs along the rows are the elements that are joined, as
//               in the numpy twin: a warp sees a row as one 32-bit word by a ballot, so runs, their
//               beginnings and what they touch above are bit operations (HA4: Hennequin,
//               Lacassagne, Cabaret, Meunier, "A new direct connected component labeling and
//               analysis algorithms for GPUs", DASIP 2018). The part of a component inside a tile
//               is a piece; its sums are complete when the tile is.
// merge_tiles   one thread a pixel beside a seam joins the pieces that touch across it (tiles, then
//               seams: Oliveira, Lotufo, "A study on connected components labeling algorithms using
//               GPUs", SIBGRAPI 2010).
// gather_targets  one block adds each piece to the first piece of its component and lists those.
//
// Union and find follow Playne, Hawick, "A new algorithm for parallel connected-component labelling
// on GPUs", IEEE TPDS 29(6), 2018: a root points at itself, others point at smaller labels, and
// joining is an atomicMin whose answer tells whether another thread was faster.
//
// Traffic: the map is read once (1.049 MB at 512x512: 5.1 us on a Jetson AGX Orin at 204.8 GB/s,
// less where it still lies in the L2 cache after the engine; 5.243 MB, 25.6 us at 1280x1024), and
// what lies beside the seams a second time, 0.28 MB in sectors of 32 bytes. An empty tile ends
// there; everything else costs by the foreground. Labels are written for foreground pixels only and
// nothing but `counts` must be cleared. These are bounds by arithmetic, not measurements.
//
// The result does not depend on the order of blocks and threads: confidence is summed as an integer
// of 2^-30 (exact from 1/128 on; below, each pixel is off by at most 2^-31), and sums, minima and
// maxima of integers commute. Only the order of the list depends on it; the host sorts by score and
// first pixel. Where a list is too short the counts say so and the host reads the map itself: no
// choice is ever made by chance. Sums stay below 2^64 while rows * columns * longer side <= 2^35.
//
// Grids and blocks: runtime/launches.py. Works from sm_70 on.

#define TILE 32
#define BLOCK_ROWS 8
#define ROWS 4                // rows of a tile that a thread takes
#define NONE 0xFFFFFFFFu      // label of a piece that found no place in the list
#define LANES 0xFFFFFFFFu
#define UNIT 1073741824.0f    // 2^30: what confidence 1 counts in the sums

// Offsets in `counts`.
#define PIECES 0  // pieces of all tiles, listed or not
#define FOUND 1   // components of at least least_area pixels, listed or not
#define BROKEN 2  // pixels that are NaN or infinite: no confidence

// What is known of a component or a part of it; MEASUREMENT in runtime/measurements.py. Places are
// pixels of the map.
struct Piece {
    unsigned long long weight;         // sum of confidence, 2^-30
    unsigned long long row_moment;     // sum of confidence * row
    unsigned long long column_moment;  // sum of confidence * column
    unsigned int area;                 // pixels
    unsigned int peak;                 // bits of the highest confidence; ordered, as it is positive
    unsigned int first;                // row * stride + column of the first pixel met by rows
    unsigned int left;
    unsigned int bottom;
    unsigned int right;
};

// Parents change under our eyes, always to a smaller label of the same component.
__device__ unsigned int root_of(const volatile unsigned int* parents, unsigned int label) {
    unsigned int parent = parents[label];
    while (parent != label) {
        label = parent;
        parent = parents[label];
    }
    return label;
}

__device__ void unite(unsigned int* parents, unsigned int one, unsigned int other) {
    one = root_of(parents, one);
    other = root_of(parents, other);
    while (one != other) {
        const unsigned int upper = max(one, other), lower = min(one, other);
        const unsigned int before = atomicMin(&parents[upper], lower);
        if (before == upper) return;
        // `upper` got another parent meanwhile, which is still to be joined with `lower`.
        one = root_of(parents, before);
        other = root_of(parents, lower);
    }
}

__device__ void add(Piece* whole, Piece part) {
    atomicAdd(&whole->weight, part.weight);
    atomicAdd(&whole->row_moment, part.row_moment);
    atomicAdd(&whole->column_moment, part.column_moment);
    atomicAdd(&whole->area, part.area);
    atomicMax(&whole->peak, part.peak);
    atomicMin(&whole->first, part.first);
    atomicMin(&whole->left, part.left);
    atomicMax(&whole->bottom, part.bottom);
    atomicMax(&whole->right, part.right);
}

// A row of a tile is a word: bit 0 is its leftmost pixel.
__device__ bool has(unsigned int row, unsigned int lane) { return row >> lane & 1u; }

// The column at which the run begins that holds `lane`.
__device__ unsigned int run_start(unsigned int row, unsigned int lane) {
    return 32 - __clz(~row & ((1u << lane) - 1u));
}

// Label of a run inside its tile: the index of its first pixel.
__device__ unsigned int run_of(const unsigned int* rows, unsigned int row, unsigned int lane) {
    return row * TILE + run_start(rows[row], lane);
}

// Join the run of a pixel with those that touch the pixel from above, each pair of runs once.
__device__ void join_above(
    unsigned int* runs, const unsigned int* rows, unsigned int row, unsigned int lane
) {
    const unsigned int here = rows[row], above = rows[row - 1];
    const unsigned int both = here & above;
    const unsigned int edge = both & ~(both << 1);
    const unsigned int left_corner = here & ~above & above << 1 & ~(here << 1);
    const unsigned int right_corner = here & ~above & above >> 1 & ~(here >> 1);
    if (!has(edge | left_corner | right_corner, lane)) return;
    const unsigned int run = run_of(rows, row, lane);
    if (has(edge, lane)) unite(runs, run, run_of(rows, row - 1, lane));
    if (has(left_corner, lane)) unite(runs, run, run_of(rows, row - 1, lane - 1));
    if (has(right_corner, lane)) unite(runs, run, run_of(rows, row - 1, lane + 1));
}

// An empty piece, its own parent; NONE where the list is full.
__device__ unsigned int new_piece(
    unsigned int* parents, Piece* pieces, unsigned int capacity, unsigned int* counts
) {
    const unsigned int label = atomicAdd(&counts[PIECES], 1u);
    if (label >= capacity) return NONE;
    const Piece empty = {0, 0, 0, 0, 0, NONE, NONE, 0, 0};
    parents[label] = label;
    pieces[label] = empty;
    return label;
}

// Sum a row of a tile over its runs: what a run's last lane gets back is the run's.
__device__ Piece sum_runs(unsigned int row, unsigned int lane, float confidence, int y, int x) {
    const unsigned int start = run_start(row, lane);
    // At least one unit: a centroid divides by the sum.
    unsigned long long weight =
        has(row, lane) ? max(__float2uint_rn(confidence * UNIT), 1u) : 0u;
    unsigned long long moment = weight * x;
    unsigned int peak = has(row, lane) ? __float_as_uint(confidence) : 0u;
    for (unsigned int distance = 1; distance < 32; distance *= 2) {
        const unsigned long long weight_left = __shfl_up_sync(LANES, weight, distance);
        const unsigned long long moment_left = __shfl_up_sync(LANES, moment, distance);
        const unsigned int peak_left = __shfl_up_sync(LANES, peak, distance);
        if (lane < start + distance) continue;
        weight += weight_left;
        moment += moment_left;
        peak = max(peak, peak_left);
    }
    const unsigned int length = lane - start + 1;
    const unsigned int left = x - (length - 1);
    const Piece run = {weight, weight * y, moment, length, peak, 0, left, (unsigned int)y,
                       (unsigned int)x};
    return run;
}

// By its bits: a compiler may take comparisons with infinity for granted.
__device__ bool is_finite(float value) {
    return (__float_as_uint(value) & 0x7F800000u) != 0x7F800000u;
}

// Label the pieces of each tile and measure them.
//
//     confidence  (rows, stride) FP32, 0..1; height x width of it shows the frame
//     threshold   a pixel is foreground when its confidence is above; positive
//     labels      (rows, stride) out: the piece of each foreground pixel; others are left as they are
//     parents     (capacity,) out: each piece its own
//     pieces      (capacity,) out
//     counts      (3,) zero before the launch; [PIECES] and [BROKEN] out
extern "C" __global__ void label_tiles(
    const float* confidence, int stride, int height, int width, float threshold,
    unsigned int* labels, unsigned int* parents, Piece* pieces, unsigned int capacity,
    unsigned int* counts
) {
    __shared__ unsigned int rows[TILE];
    __shared__ unsigned int runs[TILE * TILE];   // parent of each run
    __shared__ unsigned int names[TILE * TILE];  // piece of each run that is a root
    const unsigned int lane = threadIdx.x;
    const int x = blockIdx.x * TILE + lane;
    float values[ROWS];
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const int y = blockIdx.y * TILE + step * BLOCK_ROWS + threadIdx.y;
        values[step] = y < height && x < width ? confidence[(long long)y * stride + x] : 0.0f;
        if (!is_finite(values[step])) atomicAdd(&counts[BROKEN], 1u);
    }
    unsigned int seen = 0;
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const unsigned int row = step * BLOCK_ROWS + threadIdx.y;
        const unsigned int word = __ballot_sync(LANES, values[step] > threshold);
        if (lane == 0) rows[row] = word;
        if (has(word & ~(word << 1), lane)) runs[row * TILE + lane] = row * TILE + lane;
        seen |= word;
    }
    if (!__syncthreads_or(seen != 0)) return;
    for (int step = 0; step < ROWS; ++step) {
        const unsigned int row = step * BLOCK_ROWS + threadIdx.y;
        if (row > 0) join_above(runs, rows, row, lane);
    }
    __syncthreads();
    for (int step = 0; step < ROWS; ++step) {
        const unsigned int row = step * BLOCK_ROWS + threadIdx.y, place = row * TILE + lane;
        if (has(rows[row] & ~(rows[row] << 1), lane) && runs[place] == place)
            names[place] = new_piece(parents, pieces, capacity, counts);
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < ROWS; ++step) {
        const unsigned int row = step * BLOCK_ROWS + threadIdx.y, word = rows[row];
        if (word == 0) continue;  // so for the whole warp
        const int y = blockIdx.y * TILE + row;
        Piece run = sum_runs(word, lane, values[step], y, x);
        if (!has(word, lane)) continue;
        const unsigned int name = names[root_of(runs, run_of(rows, row, lane))];
        labels[(long long)y * stride + x] = name;
        run.first = y * stride + run.left;
        const bool is_last = lane == 31 || !has(word, lane + 1);
        if (is_last && name != NONE) add(&pieces[name], run);
    }
}

// The map and its labels, as merge_tiles sees them.
struct Map {
    const float* confidence;
    const unsigned int* labels;
    int stride;
    int height;
    int width;
    float threshold;
};

// The piece of a pixel; NONE where there is none.
__device__ unsigned int piece_at(Map map, int y, int x) {
    if (y < 0 || y >= map.height || x < 0 || x >= map.width) return NONE;
    const long long place = (long long)y * map.stride + x;
    return map.confidence[place] > map.threshold ? map.labels[place] : NONE;
}

// Join the pieces that touch across the seams between tiles.
//
//     one thread for each pixel below a seam, by rows, then for each right of one, by columns;
//     parameters as in label_tiles
extern "C" __global__ void merge_tiles(
    const float* confidence, int stride, int height, int width, float threshold,
    const unsigned int* labels, unsigned int* parents
) {
    const Map map = {confidence, labels, stride, height, width, threshold};
    const int below = (height - 1) / TILE * width, beside = (width - 1) / TILE * height;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= below + beside) return;
    const bool is_below = index < below;
    const int y = is_below ? (index / width + 1) * TILE : (index - below) % height;
    const int x = is_below ? index % width : ((index - below) / height + 1) * TILE;
    const unsigned int here = piece_at(map, y, x);
    if (here == NONE) return;
    for (int side = -1; side <= 1; ++side) {
        const unsigned int there =
            is_below ? piece_at(map, y - 1, x + side) : piece_at(map, y + side, x - 1);
        if (there != NONE) unite(parents, here, there);
    }
}

// Add up the pieces of each component and list the components; one block.
//
//     parents     (capacity,) as merge_tiles left them
//     pieces      (capacity,) the root of each component becomes its whole
//     least_area  components of fewer pixels are not counted
//     targets     (bound,) out: components in no order
//     counts      (3,) [PIECES] from label_tiles; [FOUND] zero before, out
extern "C" __global__ void gather_targets(
    const unsigned int* parents, Piece* pieces, unsigned int capacity, unsigned int least_area,
    Piece* targets, unsigned int bound, unsigned int* counts
) {
    const unsigned int listed = min(counts[PIECES], capacity);
    for (unsigned int label = threadIdx.x; label < listed; label += blockDim.x) {
        const unsigned int root = root_of(parents, label);
        if (root != label) add(&pieces[root], pieces[label]);
    }
    __syncthreads();
    for (unsigned int label = threadIdx.x; label < listed; label += blockDim.x) {
        if (parents[label] != label || pieces[label].area < least_area) continue;
        const unsigned int place = atomicAdd(&counts[FOUND], 1u);
        if (place < bound) targets[place] = pieces[label];
    }
}

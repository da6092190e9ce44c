// 3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3)
// (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 1509.09308, section 4).
//
// Tiles of 4x4 pixels are processed in blocks whose transformed channels and products stay in the caches; the products
// of the 36 points are matrix products in registers (Goto and van de Geijn, Anatomy of High-Performance Matrix
// Multiplication). Rounding errors are several times those of a direct convolution, 1e-5 of the largest value.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "ext_op.h"

namespace {

constexpr int kTile = 4;   // height and width of a tile in pixels
constexpr int kPatch = 6;  // height and width of the input pixels that a tile depends on
constexpr int kPoints = kPatch * kPatch;

// kRows x kVectors sums, the vectors and one factor fill the registers; with more than two vectors g++ spills.
#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 12;
#else
constexpr int kLanes = 8, kRows = 6;
#endif
constexpr int kVectors = 2;
constexpr int kPanel = kLanes * kVectors;  // tiles of a product in registers
constexpr int kBlock = 3 * kPanel;         // tiles of a block
constexpr int kFilters = 60;               // filters between two back transforms
static_assert(kFilters % kRows == 0, "rows fill a block of filters");

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

int64_t Tiles(int64_t side) { return (side + kTile - 1) / kTile; }
int64_t Groups(int64_t filters) { return (filters + kRows - 1) / kRows; }

// [K, C, 3, 3] -> [36, K / kRows, C, kRows]: G g G^T, the filters of a group next to each other, zeros after the last.
std::vector<paddle::Tensor> Weights(const paddle::Tensor& weight) {
  static const float kG[kPatch][3] = {{.25f, 0.f, 0.f},
                                      {-1.f / 6, -1.f / 6, -1.f / 6},
                                      {-1.f / 6, 1.f / 6, -1.f / 6},
                                      {1.f / 24, 1.f / 12, 1.f / 6},
                                      {1.f / 24, -1.f / 12, 1.f / 6},
                                      {0.f, 0.f, 1.f}};
  const auto shape = weight.shape();
  const int64_t filters = shape[0], channels = shape[1], groups = Groups(filters);
  auto output = paddle::empty({kPoints, groups, channels, kRows}, paddle::DataType::FLOAT32, weight.place());
  const float* from = weight.data<float>();
  float* to = output.data<float>();
  Parallel(groups, 8, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      for (int64_t channel = 0; channel < channels; ++channel) {
        float points[kPoints][kRows] = {};
        for (int row = 0; row < kRows && group * kRows + row < filters; ++row) {
          const float* g = from + ((group * kRows + row) * channels + channel) * 9;
          for (int i = 0; i < kPatch; ++i) {
            float half[3];
            for (int j = 0; j < 3; ++j) half[j] = kG[i][0] * g[j] + kG[i][1] * g[3 + j] + kG[i][2] * g[6 + j];
            for (int j = 0; j < kPatch; ++j)
              points[i * kPatch + j][row] = half[0] * kG[j][0] + half[1] * kG[j][1] + half[2] * kG[j][2];
          }
        }
        for (int point = 0; point < kPoints; ++point)
          std::copy(points[point], points[point] + kRows, to + ((point * groups + group) * channels + channel) * kRows);
      }
    }
  });
  return {output};
}

// Consecutive tiles of a block that are adjacent in an image.
struct Run {
  int64_t image, row, column;
  int first, count;  // places in the block
};

std::vector<Run> RunsOf(int64_t begin, int64_t end, int64_t rows, int64_t columns) {
  std::vector<Run> runs;
  for (int64_t tile = begin; tile < end;) {
    const int64_t column = tile % columns, line = tile / columns;
    const int64_t count = std::min(end - tile, columns - column);
    runs.push_back({line / rows, line % rows, column, static_cast<int>(tile - begin), static_cast<int>(count)});
    tile += count;
  }
  return runs;
}

// One dimension of B^T d for all tiles of a block.
inline void ForwardTransform(const float (*d)[kBlock], int step, float (*out)[kBlock]) {
  for (int t = 0; t < kBlock; ++t) {
    const float d0 = d[0][t], d1 = d[step][t], d2 = d[2 * step][t], d3 = d[3 * step][t], d4 = d[4 * step][t],
                d5 = d[5 * step][t];
    out[0][t] = 4.f * d0 - 5.f * d2 + d4;
    out[step][t] = (d3 + d4) - 4.f * (d1 + d2);
    out[2 * step][t] = (d4 - d3) + 4.f * (d1 - d2);
    out[3 * step][t] = (d4 - d2) + 2.f * (d3 - d1);
    out[4 * step][t] = (d4 - d2) - 2.f * (d3 - d1);
    out[5 * step][t] = 4.f * d1 - 5.f * d3 + d5;
  }
}

// One dimension of A^T m for all tiles of a block; points of a dimension are `step` apart, results `out_step`.
inline void BackTransform(const float* m, int64_t step, float (*out)[kBlock], int out_step) {
  for (int t = 0; t < kBlock; ++t) {
    const float sum = m[step + t] + m[2 * step + t], difference = m[step + t] - m[2 * step + t];
    const float far_sum = m[3 * step + t] + m[4 * step + t], far_difference = m[3 * step + t] - m[4 * step + t];
    out[0][t] = m[t] + sum + far_sum;
    out[out_step][t] = difference + 2.f * far_difference;
    out[2 * out_step][t] = sum + 4.f * far_sum;
    out[3 * out_step][t] = difference + 8.f * far_difference + m[5 * step + t];
  }
}

// The images of a call, [images, channels, height, width].
struct Pictures {
  const float* data;
  int64_t channels, height, width;
};

// Channels of a block's tiles -> [36, panels, C, kPanel]: B^T d B, the image padded with one zero on each side.
void Transform(const Pictures& pictures, const std::vector<Run>& runs, float* to) {
  constexpr int kLine = kBlock * kTile + 2;
  alignas(64) float lines[kPatch][kLine], patch[kPoints][kBlock] = {}, half[kPoints][kBlock];
  for (int64_t channel = 0; channel < pictures.channels; ++channel) {
    for (const Run& run : runs) {
      const float* plane = pictures.data + (run.image * pictures.channels + channel) * pictures.height * pictures.width;
      const int64_t left = run.column * kTile - 1, length = run.count * kTile + 2;
      const int64_t begin = std::max<int64_t>(0, -left), end = std::min(length, pictures.width - left);
      for (int i = 0; i < kPatch; ++i) {
        const int64_t y = run.row * kTile + i - 1;
        float* line = lines[i];
        if (y < 0 || y >= pictures.height) {
          std::fill(line, line + length, 0.f);
          continue;
        }
        std::fill(line, line + begin, 0.f);
        std::copy(plane + y * pictures.width + left + begin, plane + y * pictures.width + left + end, line + begin);
        std::fill(line + end, line + length, 0.f);
      }
      for (int i = 0; i < kPatch; ++i)
        for (int j = 0; j < kPatch; ++j)
          for (int t = 0; t < run.count; ++t) patch[i * kPatch + j][run.first + t] = lines[i][t * kTile + j];
    }
    for (int j = 0; j < kPatch; ++j) ForwardTransform(patch + j, kPatch, half + j);
    for (int i = 0; i < kPatch; ++i) ForwardTransform(half + i * kPatch, 1, patch + i * kPatch);
    for (int point = 0; point < kPoints; ++point)
      for (int panel = 0; panel < kBlock / kPanel; ++panel)
        std::copy(patch[point] + panel * kPanel, patch[point] + (panel + 1) * kPanel,
                  to + ((point * (kBlock / kPanel) + panel) * pictures.channels + channel) * kPanel);
  }
}

// [depth, kRows]^T times [depth, kPanel], sums in registers.
inline void Multiply(const float* left, const float* right, int64_t depth, float* out) {
  Vector sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k, left += kRows, right += kPanel) {
    Vector values[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) values[v] = *reinterpret_cast<const Vector*>(right + v * kLanes);
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[row][v] += left[row] * values[v];
    }
  }
  for (int row = 0; row < kRows; ++row)
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Vector*>(out + row * kBlock + v * kLanes) = sums[row][v];
}

// Products of some filters at all points, [36, kFilters, kBlock] -> their pixels: A^T m A + bias, then max(0, .).
struct Writer {
  float* data;
  const float* bias;
  int64_t filters, height, width;
  bool relu;

  void operator()(const float* products, int64_t begin, int64_t end, const std::vector<Run>& runs) const {
    alignas(64) float half[kTile * kPatch][kBlock], whole[kTile * kTile][kBlock];
    constexpr int64_t kStep = kFilters * kBlock;
    for (int64_t filter = begin; filter < end; ++filter) {
      const float* source = products + (filter - begin) * kBlock;
      for (int j = 0; j < kPatch; ++j) BackTransform(source + j * kStep, kPatch * kStep, half + j, kPatch);
      for (int i = 0; i < kTile; ++i) BackTransform(half[i * kPatch], kBlock, whole + i * kTile, 1);
      const float shift = bias[filter], least = relu ? 0.f : -std::numeric_limits<float>::infinity();
      for (auto& values : whole)
        for (float& value : values) value = std::max(value + shift, least);
      for (const Run& run : runs) {
        float* plane = data + (run.image * filters + filter) * height * width;
        const int64_t left = run.column * kTile, length = std::min<int64_t>(run.count * kTile, width - left);
        for (int i = 0; i < kTile && run.row * kTile + i < height; ++i) {
          float* line = plane + (run.row * kTile + i) * width + left;
          const int full = static_cast<int>(length / kTile);
          for (int t = 0; t < full; ++t)
            for (int j = 0; j < kTile; ++j) line[t * kTile + j] = whole[i * kTile + j][run.first + t];
          for (int64_t x = full * kTile; x < length; ++x) line[x] = whole[i * kTile + x % kTile][run.first + full];
        }
      }
    }
  }
};

// Images [1, B, C, H, W], weights from `Weights`, bias [K] -> [B, K, H, W].
std::vector<paddle::Tensor> Convolve(const paddle::Tensor& picture,
                                     const paddle::Tensor& weights,
                                     const paddle::Tensor& bias,
                                     bool relu) {
  const auto shape = picture.shape();
  const int64_t images = shape[1], channels = shape[2], height = shape[3], width = shape[4], filters = bias.shape()[0];
  const int64_t rows = Tiles(height), columns = Tiles(width), tiles = images * rows * columns;
  const int64_t groups = Groups(filters);
  auto output = paddle::empty({images, filters, height, width}, paddle::DataType::FLOAT32, picture.place());
  const Pictures pictures{picture.data<float>(), channels, height, width};
  const Writer write{output.data<float>(), bias.data<float>(), filters, height, width, relu};
  const float* matrices = weights.data<float>();
  Parallel(tiles, kBlock, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<float> transformed, products(kPoints * kFilters * kBlock);
    transformed.resize(kPoints * channels * kBlock);
    const auto runs = RunsOf(begin, end, rows, columns);
    Transform(pictures, runs, transformed.data());
    for (int64_t filter = 0; filter < filters; filter += kFilters) {
      const int64_t last = std::min(filters, filter + kFilters);
      for (int point = 0; point < kPoints; ++point)
        for (int panel = 0; panel < kBlock / kPanel; ++panel)
          for (int64_t group = filter / kRows; group * kRows < last; ++group)
            Multiply(matrices + (point * groups + group) * channels * kRows,
                     transformed.data() + (point * (kBlock / kPanel) + panel) * channels * kPanel, channels,
                     products.data() + (point * kFilters + group * kRows - filter) * kBlock + panel * kPanel);
      write(products.data(), filter, last, runs);
    }
  });
  return {output};
}

std::vector<std::vector<int64_t>> WeightsShape(const std::vector<int64_t>& weight) {
  return {{kPoints, Groups(weight[0]), weight[1], kRows}};
}

std::vector<std::vector<int64_t>> ConvolveShape(const std::vector<int64_t>& picture,
                                                const std::vector<int64_t>& weights,
                                                const std::vector<int64_t>& bias,
                                                bool relu) {
  return {{picture[1], bias[0], picture[3], picture[4]}};
}

std::vector<paddle::DataType> WeightsType(const paddle::DataType& weight) { return {weight}; }

std::vector<paddle::DataType> ConvolveType(const paddle::DataType& picture,
                                           const paddle::DataType& weights,
                                           const paddle::DataType& bias) {
  return {picture};
}

}  // namespace

PD_BUILD_OP(htc_winograd_weights)
    .Inputs({"Weight"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(Weights))
    .SetInferShapeFn(PD_INFER_SHAPE(WeightsShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(WeightsType));

PD_BUILD_OP(htc_winograd_convolve)
    .Inputs({"Picture", "Weights", "Bias"})
    .Outputs({"Out"})
    .Attrs({"relu: bool"})
    .SetKernelFn(PD_KERNEL(Convolve))
    .SetInferShapeFn(PD_INFER_SHAPE(ConvolveShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ConvolveType));

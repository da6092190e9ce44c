// 3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3)
// (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 1509.09308, section 4).
//
// Three operators around one batched matrix product that Paddle computes: weights to U [36, K, C], a picture to
// V [36, C, T] (T tiles of 4x4 pixels), and U V to the result with bias and ReLU. Rounding errors are some times those of
// a direct convolution, 1e-5 of the largest value.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ext_op.h"

namespace {

constexpr int kTile = 4;   // pixels of a tile's side
constexpr int kPatch = 6;  // pixels of a side of what a tile depends on
constexpr int kPoints = kPatch * kPatch;

int64_t Tiles(int64_t side) { return (side + kTile - 1) / kTile; }

// [K, C, 3, 3] -> [36, K, C]: G g G^T.
std::vector<paddle::Tensor> Weights(const paddle::Tensor& weight) {
  static const float kG[kPatch][3] = {{.25f, 0.f, 0.f},
                                      {-1.f / 6, -1.f / 6, -1.f / 6},
                                      {-1.f / 6, 1.f / 6, -1.f / 6},
                                      {1.f / 24, 1.f / 12, 1.f / 6},
                                      {1.f / 24, -1.f / 12, 1.f / 6},
                                      {0.f, 0.f, 1.f}};
  const auto shape = weight.shape();
  const int64_t filters = shape[0] * shape[1];
  auto output = paddle::empty({kPoints, shape[0], shape[1]}, paddle::DataType::FLOAT32, weight.place());
  const float* from = weight.data<float>();
  float* to = output.data<float>();
  Parallel(filters, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t filter = begin; filter < end; ++filter) {
      const float* g = from + filter * 9;
      float half[kPatch][3];
      for (int i = 0; i < kPatch; ++i)
        for (int j = 0; j < 3; ++j) half[i][j] = kG[i][0] * g[j] + kG[i][1] * g[3 + j] + kG[i][2] * g[6 + j];
      for (int i = 0; i < kPatch; ++i)
        for (int j = 0; j < kPatch; ++j)
          to[(i * kPatch + j) * filters + filter] =
              half[i][0] * kG[j][0] + half[i][1] * kG[j][1] + half[i][2] * kG[j][2];
    }
  });
  return {output};
}

// One dimension of B^T d.
inline void ForwardTransform(const float* d, int64_t step, float* out, int64_t out_step) {
  const float d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  out[0] = 4.f * d0 - 5.f * d2 + d4;
  out[out_step] = (d3 + d4) - 4.f * (d1 + d2);
  out[2 * out_step] = (d4 - d3) + 4.f * (d1 - d2);
  out[3 * out_step] = (d4 - d2) + 2.f * (d3 - d1);
  out[4 * out_step] = (d4 - d2) - 2.f * (d3 - d1);
  out[5 * out_step] = 4.f * d1 - 5.f * d3 + d5;
}

// [B * C, H, W] -> [36, C, T], T = B * rows * columns of tiles: B^T d B, the picture padded with a zero on each side.
std::vector<paddle::Tensor> Pictures(const paddle::Tensor& picture, int channels) {
  const auto shape = picture.shape();
  const int64_t images = shape[0] / channels, height = shape[1], width = shape[2];
  const int64_t rows = Tiles(height), columns = Tiles(width), tiles = images * rows * columns;
  auto output = paddle::empty({kPoints, channels, tiles}, paddle::DataType::FLOAT32, picture.place());
  const float* from = picture.data<float>();
  float* to = output.data<float>();
  const int64_t padded = columns * kTile + 2;
  Parallel(images * channels, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> patch(kPatch * padded, 0.f), half(kPatch * padded);
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t image = plane / channels, channel = plane % channels;
      for (int64_t row = 0; row < rows; ++row) {
        for (int i = 0; i < kPatch; ++i) {
          const int64_t y = row * kTile + i - 1;
          float* line = patch.data() + i * padded;
          if (y < 0 || y >= height) {
            std::fill(line, line + padded, 0.f);
          } else {
            const float* source = from + (plane * height + y) * width;
            std::copy(source, source + width, line + 1);
          }
        }
        for (int64_t x = 0; x < padded; ++x) ForwardTransform(patch.data() + x, padded, half.data() + x, padded);
        float* target = to + channel * tiles + (image * rows + row) * columns;
        const int64_t step = channels * tiles;
        for (int i = 0; i < kPatch; ++i)
          for (int64_t column = 0; column < columns; ++column)
            ForwardTransform(half.data() + i * padded + column * kTile, 1, target + i * kPatch * step + column, step);
      }
    }
  });
  return {output};
}

// One dimension of A^T m.
inline void BackTransform(const float* m, int64_t step, float* out, int64_t out_step) {
  const float sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
  const float far_sum = m[3 * step] + m[4 * step], far_difference = m[3 * step] - m[4 * step];
  out[0] = m[0] + sum + far_sum;
  out[out_step] = difference + 2.f * far_difference;
  out[2 * out_step] = sum + 4.f * far_sum;
  out[3 * out_step] = difference + 8.f * far_difference + m[5 * step];
}

// [36, K, T] -> [B, K, H, W]: A^T m A + bias, then max(0, .) if asked for. The picture [B * C, H, W] gives the size.
std::vector<paddle::Tensor> Results(const paddle::Tensor& product,
                                    const paddle::Tensor& bias,
                                    const paddle::Tensor& picture,
                                    int channels,
                                    bool relu) {
  const auto shape = picture.shape();
  const int64_t images = shape[0] / channels, height = shape[1], width = shape[2];
  const int64_t rows = Tiles(height), columns = Tiles(width), tiles = images * rows * columns;
  const int64_t filters = product.shape()[1];
  auto output = paddle::empty({images, filters, height, width}, paddle::DataType::FLOAT32, product.place());
  const float* from = product.data<float>();
  const float* shift = bias.data<float>();
  float* to = output.data<float>();
  Parallel(images * filters, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> half(kTile * kPatch * columns), whole(kTile * kTile * columns);
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t image = plane / filters, filter = plane % filters, step = filters * tiles;
      for (int64_t row = 0; row < rows; ++row) {
        const float* source = from + filter * tiles + (image * rows + row) * columns;
        for (int j = 0; j < kPatch; ++j)
          for (int64_t column = 0; column < columns; ++column)
            BackTransform(source + j * step + column, kPatch * step, half.data() + j * columns + column,
                          kPatch * columns);
        for (int i = 0; i < kTile; ++i)
          for (int64_t column = 0; column < columns; ++column)
            BackTransform(half.data() + i * kPatch * columns + column, columns,
                          whole.data() + i * kTile * columns + column, columns);
        for (int i = 0; i < kTile && row * kTile + i < height; ++i) {
          float* line = to + (plane * height + row * kTile + i) * width;
          const float* values = whole.data() + i * kTile * columns;
          for (int64_t x = 0; x < width; ++x) {
            const float value = values[x % kTile * columns + x / kTile] + shift[filter];
            line[x] = relu ? std::max(value, 0.f) : value;
          }
        }
      }
    }
  });
  return {output};
}

std::vector<std::vector<int64_t>> WeightsShape(const std::vector<int64_t>& weight) {
  return {{kPoints, weight[0], weight[1]}};
}

std::vector<std::vector<int64_t>> PicturesShape(const std::vector<int64_t>& picture, int channels) {
  const bool open = picture[0] < 0 || picture[1] < 0 || picture[2] < 0;
  return {{kPoints, channels, open ? -1 : picture[0] / channels * Tiles(picture[1]) * Tiles(picture[2])}};
}

std::vector<std::vector<int64_t>> ResultsShape(const std::vector<int64_t>& product,
                                               const std::vector<int64_t>& bias,
                                               const std::vector<int64_t>& picture,
                                               int channels,
                                               bool relu) {
  return {{picture[0] < 0 ? -1 : picture[0] / channels, product[1], picture[1], picture[2]}};
}

std::vector<paddle::DataType> SameType(const paddle::DataType& type) { return {type}; }

std::vector<paddle::DataType> ResultsType(const paddle::DataType& product,
                                          const paddle::DataType& bias,
                                          const paddle::DataType& picture) {
  return {product};
}

}  // namespace

PD_BUILD_OP(htc_winograd_weights)
    .Inputs({"Weight"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(Weights))
    .SetInferShapeFn(PD_INFER_SHAPE(WeightsShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SameType));

PD_BUILD_OP(htc_winograd_pictures)
    .Inputs({"Picture"})
    .Outputs({"Out"})
    .Attrs({"channels: int"})
    .SetKernelFn(PD_KERNEL(Pictures))
    .SetInferShapeFn(PD_INFER_SHAPE(PicturesShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SameType));

PD_BUILD_OP(htc_winograd_results)
    .Inputs({"Product", "Bias", "Picture"})
    .Outputs({"Out"})
    .Attrs({"channels: int", "relu: bool"})
    .SetKernelFn(PD_KERNEL(Results))
    .SetInferShapeFn(PD_INFER_SHAPE(ResultsShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ResultsType));

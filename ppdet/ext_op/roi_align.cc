// RoIAlign over a pyramid for prediction on a CPU (Mask R-CNN, section 3; FPN, equation 1).
//
// The mean of the bilinear samples of a bin is separable into a weight for each row and a weight for each column of the
// map. Samples that share cells are merged into one weight per cell, and the innermost loop runs over the channels, which
// are contiguous in the transposed map. The result equals sampling point by point up to rounding.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ext_op.h"

namespace {

// Weights along one axis: for each output bin, those of the cells first[bin] .. first[bin] + count[bin] - 1.
struct Axis {
  std::vector<float> weight;
  std::vector<int> first, count;
  int low, high;  // all cells that any bin needs, high exclusive
  int stride;

  // The positions of the samples are rounded as in Paddle's operator: a multiplication, then an addition.
  __attribute__((optimize("fp-contract=off"))) void Build(float start, float length, int size, int bins, int average, int sampling_ratio) {
    const int parts = bins * average;
    const float bin = length / static_cast<float>(parts);
    const int grid = sampling_ratio > 0 ? sampling_ratio : std::max(0, static_cast<int>(std::ceil(length / parts)));
    first.assign(bins, 0);
    count.assign(bins, 0);
    stride = std::min(size, static_cast<int>(std::ceil(std::fabs(bin) * average)) + 3);
    weight.assign(static_cast<size_t>(bins) * stride, 0.f);
    low = size;
    high = 0;
    const float share = 1.f / static_cast<float>(std::max(grid, 1) * average);
    for (int out = 0; out < bins; ++out) {
      int begin = -1, end = -1;
      float* cells = &weight[static_cast<size_t>(out) * stride];
      for (int part = out * average; part < (out + 1) * average; ++part) {
        for (int sample = 0; sample < grid; ++sample) {
          float place = start + part * bin + (static_cast<float>(sample) + .5f) * bin / static_cast<float>(grid);
          if (!(place >= -1.f && place <= static_cast<float>(size))) continue;
          place = std::max(place, 0.f);
          int cell = static_cast<int>(place);
          float upper = place - static_cast<float>(cell);
          if (cell >= size - 1) {
            cell = size - 1;
            upper = 0.f;
          }
          if (begin < 0) begin = cell;
          const int offset = cell - begin;
          cells[offset] += share * (1.f - upper);
          if (upper > 0.f) cells[offset + 1] += share * upper;
          end = std::max(end, cell + (upper > 0.f ? 2 : 1));
        }
      }
      if (begin >= 0) {
        first[out] = begin;
        count[out] = end - begin;
        low = std::min(low, begin);
        high = std::max(high, end);
      }
    }
  }
};

// [1, B, C, H, W] -> [B, H, W, C], in blocks that fit into the cache.
std::vector<paddle::Tensor> ChannelsLast(const paddle::Tensor& feature) {
  constexpr int64_t kBlock = 32;
  const auto shape = feature.shape();
  const int64_t images = shape[1], channels = shape[2], cells = shape[3] * shape[4];
  auto output = paddle::empty({images, shape[3], shape[4], channels}, paddle::DataType::FLOAT32, feature.place());
  const float* from = feature.data<float>();
  float* to = output.data<float>();
  const int64_t blocks = (cells + kBlock - 1) / kBlock;
  Parallel(images * blocks, 64, [&](int64_t begin, int64_t stop) {
    for (int64_t place = begin; place < stop; ++place) {
      const float* source = from + place / blocks * cells * channels;
      float* target = to + place / blocks * cells * channels;
      const int64_t first = place % blocks * kBlock, last = std::min(cells, first + kBlock);
      for (int64_t channel = 0; channel < channels; channel += kBlock) {
        const int64_t end = std::min(channels, channel + kBlock);
        for (int64_t i = first; i < last; ++i)
          for (int64_t c = channel; c < end; ++c) target[i * channels + c] = source[c * cells + i];
      }
    }
  });
  return {output};
}

std::vector<std::vector<int64_t>> ChannelsLastShape(const std::vector<int64_t>& feature) {
  return {{feature[1], feature[3], feature[4], feature[2]}};
}

std::vector<paddle::DataType> ChannelsLastType(const paddle::DataType& feature) { return {feature}; }

struct Frame {
  float left, top, width, height;
};

__attribute__((optimize("fp-contract=off"))) Frame OnMap(const float* box, float scale, bool aligned) {
  const float shift = aligned ? .5f : 0.f;
  Frame frame{box[0] * scale - shift, box[1] * scale - shift, 0.f, 0.f};
  frame.width = box[2] * scale - shift - frame.left;
  frame.height = box[3] * scale - shift - frame.top;
  if (!aligned) {
    frame.width = std::max(frame.width, 1.f);
    frame.height = std::max(frame.height, 1.f);
  }
  return frame;
}

int Level(const float* box, int levels, float canonical_size) {
  if (levels == 1) return 0;
  const float scale = std::sqrt((box[2] - box[0]) * (box[3] - box[1]));
  const float level = std::floor(std::log2(scale / canonical_size + 1e-6f));
  return static_cast<int>(std::min(std::max(level, 0.f), static_cast<float>(levels - 1)));
}

std::vector<paddle::Tensor> PyramidRoIAlign(const std::vector<paddle::Tensor>& features,
                                            const paddle::Tensor& boxes,
                                            const paddle::Tensor& number,
                                            const std::vector<float>& scales,
                                            int resolution,
                                            int sampling_ratio,
                                            bool aligned,
                                            float canonical_size,
                                            int average) {
  const int levels = static_cast<int>(features.size());
  const auto shape = features[0].shape();
  const int64_t images = shape[0], channels = shape[3];
  const int64_t rois = boxes.shape()[0];
  auto output = paddle::empty({rois, channels, resolution, resolution}, paddle::DataType::FLOAT32, boxes.place());
  const float* box = boxes.data<float>();
  const int* counts = number.data<int>();

  std::vector<int64_t> image(rois, images - 1);
  for (int64_t one = 0, roi = 0; one < images; ++one)
    for (int left = counts[one]; left > 0 && roi < rois; --left) image[roi++] = one;
  float* result = output.data<float>();
  const int64_t bins = static_cast<int64_t>(resolution) * resolution;
  Parallel(rois, 8, [&](int64_t begin, int64_t stop) {
    Axis rows, columns;
    std::vector<float> line, pooled(static_cast<size_t>(bins * channels));
    for (int64_t roi = begin; roi < stop; ++roi) {
      float* target = result + roi * bins * channels;
      const float* corner = box + 4 * roi;
      if (!(corner[2] > corner[0] && corner[3] > corner[1])) {  // no area: zeros
        std::memset(target, 0, sizeof(float) * bins * channels);
        continue;
      }
      const int level = Level(corner, levels, canonical_size);
      const auto size = features[level].shape();
      const int height = static_cast<int>(size[1]), width = static_cast<int>(size[2]);
      const Frame frame = OnMap(corner, scales[level], aligned);
      rows.Build(frame.top, frame.height, height, resolution, average, sampling_ratio);
      columns.Build(frame.left, frame.width, width, resolution, average, sampling_ratio);
      std::fill(pooled.begin(), pooled.end(), 0.f);
      const int span = columns.high - columns.low;
      if (span > 0) {
        line.resize(static_cast<size_t>(span) * channels);
        const float* map = features[level].data<float>() + image[roi] * height * width * channels;
        for (int y = 0; y < resolution; ++y) {
          if (!rows.count[y]) continue;
          const int64_t length = span * channels;
          std::fill(line.begin(), line.end(), 0.f);
          for (int k = 0; k < rows.count[y]; ++k) {
            const float weight = rows.weight[static_cast<size_t>(y) * rows.stride + k];
            const float* source = map + (static_cast<int64_t>(rows.first[y] + k) * width + columns.low) * channels;
            float* sum = line.data();
            for (int64_t i = 0; i < length; ++i) sum[i] += weight * source[i];
          }
          for (int x = 0; x < resolution; ++x) {
            float* sum = pooled.data() + (static_cast<int64_t>(y) * resolution + x) * channels;
            for (int k = 0; k < columns.count[x]; ++k) {
              const float weight = columns.weight[static_cast<size_t>(x) * columns.stride + k];
              const float* source = line.data() + static_cast<int64_t>(columns.first[x] + k - columns.low) * channels;
              for (int64_t c = 0; c < channels; ++c) sum[c] += weight * source[c];
            }
          }
        }
      }
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t bin = 0; bin < bins; ++bin) target[c * bins + bin] = pooled[bin * channels + c];
    }
  });
  return {output};
}

std::vector<std::vector<int64_t>> Shape(const std::vector<std::vector<int64_t>>& features,
                                        const std::vector<int64_t>& boxes,
                                        const std::vector<int64_t>& number,
                                        const std::vector<float>& scales,
                                        int resolution,
                                        int sampling_ratio,
                                        bool aligned,
                                        float canonical_size,
                                        int average) {
  return {{boxes[0], features[0][3], resolution, resolution}};
}

std::vector<paddle::DataType> Type(const std::vector<paddle::DataType>& features,
                                   const paddle::DataType& boxes,
                                   const paddle::DataType& number) {
  return {paddle::DataType::FLOAT32};
}

}  // namespace

PD_BUILD_OP(htc_channels_last)
    .Inputs({"Feature"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(ChannelsLast))
    .SetInferShapeFn(PD_INFER_SHAPE(ChannelsLastShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ChannelsLastType));

PD_BUILD_OP(htc_roi_align)
    .Inputs({paddle::Vec("Features"), "Boxes", "Number"})
    .Outputs({"Out"})
    .Attrs({"scales: std::vector<float>",
            "resolution: int",
            "sampling_ratio: int",
            "aligned: bool",
            "canonical_size: float",
            "average: int"})
    .SetKernelFn(PD_KERNEL(PyramidRoIAlign))
    .SetInferShapeFn(PD_INFER_SHAPE(Shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(Type));

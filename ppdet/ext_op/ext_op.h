// Helpers of all operators.

#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "paddle/extension.h"

// Number of threads of a call: HTC_EXT_THREADS if it is set, otherwise one for each core available to this process.
inline int Threads() {
  const char* setting = std::getenv("HTC_EXT_THREADS");
  if (setting != nullptr && std::atoi(setting) > 0) return std::atoi(setting);
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? std::max(1, CPU_COUNT(&cores)) : 1;
}

// Calls work(begin, end) for blocks of 0 .. count - 1. The threads end with the call: the threads of a second OpenMP
// runtime would keep spinning for a while and take the cores from Paddle's operators.
template <typename Work>
void Parallel(int64_t count, int64_t block, const Work& work) {
  const int64_t blocks = (count + block - 1) / block;
  const int threads = static_cast<int>(std::min<int64_t>(Threads(), blocks));
  std::atomic<int64_t> next{0};
  auto run = [&] {
    for (int64_t place = next++; place < blocks; place = next++)
      work(place * block, std::min(count, (place + 1) * block));
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(run);
  run();
  for (auto& helper : helpers) helper.join();
}

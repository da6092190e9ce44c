// What the operators share.

#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "paddle/extension.h"

// Threads of a call: HTC_EXT_THREADS where it is set, otherwise one for each core that this process may use.
inline int Threads() {
  const char* wanted = std::getenv("HTC_EXT_THREADS");
  if (wanted != nullptr && std::atoi(wanted) > 0) return std::atoi(wanted);
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? std::max(1, CPU_COUNT(&cores)) : 1;
}

// Runs work(begin, end) on blocks of 0 .. count - 1. Threads end with the call: those of a second OpenMP beside
// Paddle's would go on spinning for a while and take the cores from its operators.
template <typename Work>
void Parallel(int64_t count, int64_t block, const Work& work) {
  const int64_t blocks = (count + block - 1) / block;
  const int threads = static_cast<int>(std::min<int64_t>(Threads(), blocks));
  std::atomic<int64_t> next{0};
  auto run = [&] {
    for (int64_t place = next++; place < blocks; place = next++)
      work(place * block, std::min(count, (place + 1) * block));
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(run);
  run();
  for (auto& other : others) other.join();
}

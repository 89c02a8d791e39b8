#include "schedule.h"

#include <map>
#include <utility>

#include "gpu_shim.h"

void set_order(const std::string& order, unsigned seed) {
  using fastadv::emulation::Order;
  const std::map<std::string, Order> orders = {
      {"forward", Order::forward}, {"reverse", Order::reverse}, {"shuffled", Order::shuffled}};
  fastadv::emulation::schedule.set(orders.at(order), seed);
}

std::vector<std::string> take_launched() {
  return std::exchange(fastadv::emulation::launched, {});
}

void leave_out_barrier(int number) {
  fastadv::emulation::left_out_barrier = number;
}

int take_barriers() {
  return std::exchange(fastadv::emulation::most_barriers, 0);
}

bool uses_ucontext() {
#ifdef FASTADV_EMULATE_UCONTEXT
  return true;
#else
  return false;
#endif
}

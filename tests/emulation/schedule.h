// What Python may ask of the scheduler, in every emulation module.
#pragma once

#include <string>
#include <vector>

void set_order(const std::string& order, unsigned seed);  // "forward", "reverse" or "shuffled"
std::vector<std::string> take_launched();                 // the kernels launched since the last call
bool uses_ucontext();
void leave_out_barrier(int number);  // of every thread, counted from 0; -1 for none
int take_barriers();                 // the most a thread has come to since the last call

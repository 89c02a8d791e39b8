// A function call that can be put aside in the middle and taken up again: its stack and saved registers.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) || !defined(__linux__)
#define FASTADV_EMULATE_UCONTEXT  // may be asked for elsewhere too, to test it
#endif
#ifdef FASTADV_EMULATE_UCONTEXT
#include <ucontext.h>
#endif

namespace fastadv::emulation {

#ifdef FASTADV_EMULATE_UCONTEXT

class Context {
 public:
  void prepare(char* stack, std::size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  static void swap(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_;
};

#else

// swapcontext makes a system call for the signal mask, which takes most of its time; a kernel of 256 threads
// switches a thousand times. This saves what the System V ABI makes the callee keep, and is written outside
// any C++ function so that no compiler can reason about the registers of its callers.
extern "C" void fastadv_switch_stack(void** save_stack_pointer, void* load_stack_pointer);
asm(R"(
.text
.weak fastadv_switch_stack
.hidden fastadv_switch_stack
.type fastadv_switch_stack, @function
fastadv_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastadv_switch_stack, .-fastadv_switch_stack
)");

class Context {
 public:
  void prepare(char* stack, std::size_t bytes, void (*entry)()) {
    constexpr std::size_t kSavedRegisters = 6;
    auto end = reinterpret_cast<std::uintptr_t>(stack + bytes) & ~std::uintptr_t{15};
    auto** top = reinterpret_cast<void**>(end);
    *--top = nullptr;  // where entry would return to; leaves the stack aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (std::size_t i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
    stack_pointer_ = top;
  }
  static void swap(Context& from, Context& to) {
    fastadv_switch_stack(&from.stack_pointer_, to.stack_pointer_);
  }

 private:
  void* stack_pointer_ = nullptr;
};

#endif

}  // namespace fastadv::emulation

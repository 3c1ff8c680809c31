/* Another CPU, as far as programs can tell: LD_PRELOAD this, and PRETEND_CPU says which.
 *
 * Linux lets a process ask that the instruction CPUID fault (arch_prctl ARCH_SET_CPUID); the handler of the fault then
 * gives the answers. No AVX-512 or AMX is ever admitted to, so libraries take the ways that they take on such CPUs:
 *   here      this CPU without them
 *   haswell   Intel, 2013: AVX2, and other sizes of caches, by which libraries choose how they cut a sum
 *   zen3      AMD, 2020: likewise, and another vendor
 * What cannot be pretended are instructions whose result differs between CPUs (rcpps, rsqrtps).
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
enum { HERE = 1, HASWELL, ZEN3 };
static int kind;
static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);

static const uint32_t HASWELL_CACHES[4][4] = { /* 32K data, 32K code, 256K, 8M */
    {0x0c000121, (7u << 22) | 63, 63, 0}, {0x0c000122, (7u << 22) | 63, 63, 0},
    {0x0c000143, (7u << 22) | 63, 511, 0}, {0x0c00c163, (15u << 22) | 63, 8191, 6}};
static const uint32_t ZEN3_CACHES[4][4] = { /* 32K data, 32K code, 512K, 32M */
    {0x00004121, (7u << 22) | 63, 63, 0}, {0x00004122, (7u << 22) | 63, 63, 0},
    {0x00004143, (7u << 22) | 63, 1023, 2}, {0x0003c163, (15u << 22) | 63, 32767, 1}};

static uint32_t without(uint32_t bits, const int *gone) {
  for (; *gone >= 0; gone++) bits &= ~(1u << *gone);
  return bits;
}

static void caches(const uint32_t known[4][4], uint32_t level, uint32_t r[4]) {
  memset(r, 0, 16);
  if (level < 4) memcpy(r, known[level], 16);
}

static void answer(uint32_t leaf, uint32_t sub, uint32_t r[4]) {
  __cpuid_count(leaf, sub, r[0], r[1], r[2], r[3]);
  if (leaf == 7 && sub == 0) {
    static const int ebx[] = {16, 17, 21, 26, 27, 28, 30, 31, -1}, ecx[] = {1, 6, 8, 9, 10, 11, 12, 14, -1};
    static const int edx[] = {2, 3, 8, 22, 23, 24, 25, -1};
    r[0] = 0, r[1] = without(r[1], ebx), r[2] = without(r[2], ecx), r[3] = without(r[3], edx);
  } else if (leaf == 7 || leaf == 0x19 || leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
    memset(r, 0, 16);
  }
  if (kind == HASWELL) {
    if (leaf == 0) r[0] = 0xd;
    if (leaf == 1) r[0] = 0x000306C3;
    if (leaf == 4) caches(HASWELL_CACHES, sub, r);
    if (leaf > 0xd && leaf < 0x80000000u) memset(r, 0, 16);
  }
  if (kind == ZEN3) {
    if (leaf == 0 || leaf == 0x80000000u) {
      r[0] = leaf ? 0x80000020u : 0x10;
      memcpy(&r[1], "Auth", 4), memcpy(&r[3], "enti", 4), memcpy(&r[2], "cAMD", 4);
    }
    if (leaf == 1) r[0] = 0x00A20F10;
    if (leaf == 2 || leaf == 4 || (leaf > 0x10 && leaf < 0x80000000u)) memset(r, 0, 16);
    if (leaf == 0x80000001u) r[2] |= 1u << 22; /* it describes its caches in 0x8000001D */
    if (leaf == 0x80000005u) r[2] = r[3] = 0x20080140;
    if (leaf == 0x80000006u) r[2] = 0x02006140, r[3] = 0x00809140;
    if (leaf == 0x8000001Du) caches(ZEN3_CACHES, sub, r);
  }
}

static void on_fault(int signal_number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *at = (const uint8_t *)registers[REG_RIP];
  uint32_t r[4];
  if (info->si_code != SI_KERNEL || at[0] != 0x0f || at[1] != 0xa2) { /* a fault like any other */
    signal(signal_number, SIG_DFL);
    return;
  }
  syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
  answer((uint32_t)registers[REG_RAX], (uint32_t)registers[REG_RCX], r);
  syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
  registers[REG_RAX] = r[0], registers[REG_RBX] = r[1], registers[REG_RCX] = r[2], registers[REG_RDX] = r[3];
  registers[REG_RIP] += 2;
}

/* Others (Python's faulthandler) would take the handler away. */
int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
  if (!real_sigaction) real_sigaction = dlsym(RTLD_NEXT, "sigaction");
  if (number != SIGSEGV || !new || !kind) return real_sigaction(number, new, old);
  if (old) memset(old, 0, sizeof *old);
  return 0;
}

__attribute__((constructor(101))) static void begin(void) {
  const char *name = getenv("PRETEND_CPU");
  struct sigaction action = {0};
  if (!name) return;
  real_sigaction = dlsym(RTLD_NEXT, "sigaction");
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  real_sigaction(SIGSEGV, &action, NULL);
  kind = !strcmp(name, "haswell") ? HASWELL : !strcmp(name, "zen3") ? ZEN3 : HERE;
  if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) _exit(97); /* this system cannot pretend */
}

//! A guest of one page of code that goes through what a platform needs: ring 0 with port I/O, ring 3 with SYSCALL and
//! back a thousand times, and a page fault taken from ring 3.
//!
//! Guest-physical layout (identity-mapped in 2 MiB pages, user-accessible; the last table entry stays empty so that one
//! address faults): page tables at 0x1000, descriptor tables at 0x5000, stack below 0x8000, code at 0x10000.
#![allow(clippy::disallowed_methods, reason = "the probe's own memory: no guest of Casemate's ever runs in it")]

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::probe::{Failure, at};

/// Guest memory in bytes: one large page.
const MEMORY: usize = 2 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x5000;
const TSS: u64 = 0x5100;
const IDT: u64 = 0x6000;
const STACK: u64 = 0x8000;
const CODE: u64 = 0x1_0000;
/// Not mapped: the fourth megabyte.
const UNMAPPED: u64 = 0x20_0000;

/// Ports on which the guest says how far it came.
const PORT_RING0: u16 = 0x10;
const PORT_SYSCALLS: u16 = 0x11;
const PORT_FAULT: u16 = 0x12;
/// Times that ring 3 calls ring 0.
const SYSCALLS: u32 = 1000;

// Selectors, in the order that SYSCALL and SYSRET want.
const KERNEL_CODE: u16 = 0x10;
const KERNEL_DATA: u16 = 0x18;
const USER_DATA: u16 = 0x28 | 3;
const USER_CODE: u16 = 0x30 | 3;
const TASK: u16 = 0x40;

std::arch::global_asm!(
    ".pushsection .rodata.casemate_kvm_selftest, \"a\"",
    ".globl casemate_kvm_code",
    ".globl casemate_kvm_syscall",
    ".globl casemate_kvm_fault",
    ".globl casemate_kvm_end",
    "casemate_kvm_code:",
    "    mov $0x42, %eax",
    "    out %al, $0x10",
    "    xor %ebx, %ebx",
    "    mov $1000, %ebp",
    "    lea 2f(%rip), %rcx",
    "    mov $2, %r11d",
    "    sysretq",
    "2:  xor %eax, %eax",
    "3:  syscall",
    "    dec %ebp",
    "    jnz 3b",
    "    mov $1, %eax",
    "    syscall",
    "    mov (%rdi), %rax",
    "    ud2",
    "casemate_kvm_syscall:",
    "    test %eax, %eax",
    "    jnz 4f",
    "    inc %ebx",
    "    sysretq",
    "4:  mov %ebx, %eax",
    "    out %eax, $0x11",
    "    sysretq",
    "casemate_kvm_fault:",
    "    mov %cr2, %rax",
    "    out %eax, $0x12",
    "    hlt",
    "casemate_kvm_end:",
    ".popsection",
    options(att_syntax)
);

unsafe extern "C" {
    static casemate_kvm_code: u8;
    static casemate_kvm_syscall: u8;
    static casemate_kvm_fault: u8;
    static casemate_kvm_end: u8;
}

/// The guest's code and the offsets of its two entry points.
fn code() -> (&'static [u8], u64, u64) {
    let start = &raw const casemate_kvm_code;
    let length = (&raw const casemate_kvm_end as usize).saturating_sub(start as usize);
    // SAFETY: (1) both symbols are in the one read-only section above, the second after the first, so the bytes between
    // them are initialised, never written, and live as long as the program.
    let bytes = unsafe { std::slice::from_raw_parts(start, length) };
    let offset = |symbol: *const u8| (symbol as u64).saturating_sub(start as u64);
    (bytes, offset(&raw const casemate_kvm_syscall), offset(&raw const casemate_kvm_fault))
}

/// A virtual machine with one CPU.
pub(crate) struct Machine {
    vcpu: VcpuFd,
    // Field order is drop order: the machine goes before the memory it maps.
    _vm: VmFd,
    memory: GuestMemoryMmap,
}

impl Machine {
    /// Makes the machine, its memory and its CPU.
    pub(crate) fn new(kvm: &Kvm) -> Result<Self, Failure> {
        let vm = at("create VM", kvm.create_vm())?;
        // Three pages that Intel's real-mode emulation wants; harmless elsewhere.
        at("set TSS address", vm.set_tss_address(0xfffb_d000))?;
        let memory: GuestMemoryMmap = at("guest memory", GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]))?;
        let address = at("guest memory", memory.get_host_address(GuestAddress(0)))?;
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: address as u64,
        };
        // SAFETY: the region is mapped, has this size, and outlives the machine (field order of `Machine`).
        at("memory slot", unsafe { vm.set_user_memory_region(slot) })?;
        let vcpu = at("create vCPU", vm.create_vcpu(0))?;
        let cpuid = at("set CPUID", kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES))?;
        at("set CPUID", vcpu.set_cpuid2(&cpuid))?;
        Ok(Self { vcpu, _vm: vm, memory })
    }

    /// A model-specific register, if this host's KVM knows it.
    pub(crate) fn msr(&self, index: u32) -> Option<u64> {
        let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).ok()?;
        let read = self.vcpu.get_msrs(&mut msrs).ok()?;
        (read == 1).then(|| msrs.as_slice().first().map(|entry| entry.data)).flatten()
    }

    fn store(&self, address: u64, value: u64) -> Result<(), Failure> {
        at("guest memory", self.memory.write_obj(value, GuestAddress(address)))
    }

    fn set_up(&mut self) -> Result<(), Failure> {
        let (bytes, syscall, fault) = code();
        at("guest memory", self.memory.write_slice(bytes, GuestAddress(CODE)))?;
        // Present, writable, user; the directory's one entry is a large page.
        self.store(PML4, PDPT | 7)?;
        self.store(PDPT, PAGE_DIRECTORY | 7)?;
        self.store(PAGE_DIRECTORY, 0x87)?;
        for (selector, descriptor) in [
            (KERNEL_CODE, 0x00af_9b00_0000_ffff_u64),
            (KERNEL_DATA, 0x00cf_9300_0000_ffff),
            (USER_DATA & !7, 0x00cf_f300_0000_ffff),
            (USER_CODE & !7, 0x00af_fb00_0000_ffff),
            // Busy 64-bit task state of 0x67 bytes at TSS.
            (TASK, 0x0000_8b00_0000_0067 | ((TSS & 0xff_ffff) << 16)),
        ] {
            self.store(GDT + u64::from(selector), descriptor)?;
        }
        // RSP0 of the task state, at offset 4.
        self.store(TSS + 4, STACK)?;
        let handler = CODE + fault;
        let gate = (handler & 0xffff) | (u64::from(KERNEL_CODE) << 16) | (0x8e00 << 32) | ((handler >> 16) << 48);
        self.store(IDT + 14 * 16, gate)?;
        self.store(IDT + 14 * 16 + 8, 0)?;

        let mut sregs = at("get registers", self.vcpu.get_sregs())?;
        sregs.cr0 = 0x8005_0033;
        sregs.cr3 = PML4;
        sregs.cr4 = 0x6a0;
        sregs.efer = 0xd01;
        sregs.gdt.base = GDT;
        sregs.gdt.limit = 0x4f;
        sregs.idt.base = IDT;
        sregs.idt.limit = 0xfff;
        let segment = |selector: u16, kind: u8, dpl: u8, long: u8| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_: kind,
            present: 1,
            dpl,
            db: 1 - long,
            s: 1,
            l: long,
            g: 1,
            ..Default::default()
        };
        sregs.cs = segment(KERNEL_CODE, 11, 0, 1);
        for data in [&mut sregs.ss, &mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs] {
            *data = segment(KERNEL_DATA, 3, 0, 0);
        }
        sregs.tr = kvm_segment { base: TSS, limit: 0x67, selector: TASK, type_: 11, present: 1, ..Default::default() };
        at("set registers", self.vcpu.set_sregs(&sregs))?;

        let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let star = (u64::from(USER_DATA - 8) << 48) | (u64::from(KERNEL_CODE) << 32);
        let entries = [entry(0xc000_0081, star), entry(0xc000_0082, CODE + syscall), entry(0xc000_0084, 0x4_7700)];
        let msrs = at("set MSRs", Msrs::from_entries(&entries).map_err(|error| format!("{error:?}")))?;
        let written = at("set MSRs", self.vcpu.set_msrs(&msrs))?;
        if written != entries.len() {
            return Err(Failure { step: "set MSRs", why: format!("only {written} of {} were taken", entries.len()) });
        }
        let regs = kvm_regs { rip: CODE, rsp: STACK, rflags: 2, rdi: UNMAPPED, ..Default::default() };
        at("set registers", self.vcpu.set_regs(&regs))
    }

    /// Runs until the guest writes to `port`; returns the value.
    fn expect_out(&mut self, step: &'static str, port: u16) -> Result<u32, Failure> {
        match at(step, self.vcpu.run())? {
            VcpuExit::IoOut(got, data) if got == port => {
                let mut bytes = [0; 4];
                for (to, from) in bytes.iter_mut().zip(data) {
                    *to = *from;
                }
                Ok(u32::from_le_bytes(bytes))
            }
            exit => Err(Failure { step, why: format!("unexpected exit {exit:?}") }),
        }
    }
}

/// Runs the guest through its steps.
pub(crate) fn run(mut machine: Machine) -> Result<(), Failure> {
    machine.set_up()?;
    machine.expect_out("ring-0 OUT", PORT_RING0)?;
    let step = "ring-3 SYSCALL and back";
    let calls = machine.expect_out(step, PORT_SYSCALLS)?;
    if calls != SYSCALLS {
        return Err(Failure { step, why: format!("{calls} of {SYSCALLS} calls arrived") });
    }
    let step = "ring-3 page fault";
    let address = machine.expect_out(step, PORT_FAULT)?;
    if u64::from(address) != UNMAPPED {
        return Err(Failure { step, why: format!("fault address {address:#x} instead of {UNMAPPED:#x}") });
    }
    let step = "HLT";
    match at(step, machine.vcpu.run())? {
        VcpuExit::Hlt => Ok(()),
        exit => Err(Failure { step, why: format!("unexpected exit {exit:?}") }),
    }
}

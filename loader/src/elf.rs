//! ELF files: what is checked, and what is mapped where.
//!
//! The checks, their order and their errors are those of Linux's `binfmt_elf`, but all of them are made before the old
//! program is given up, where Linux would kill the task for some.

use abi::Errno;
use abi::elf::{ELFMAG, EM_X86_64, ET_DYN, ET_EXEC, Ehdr, PF_R, PF_W, PF_X, PT_GNU_STACK, PT_INTERP, PT_LOAD, Phdr};
use abi::fs::PATH_MAX;
use abi::mm::ProtFlags;
use usermem::addr::{Addr, AddrRange, PAGE_SIZE};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::place::Placer;
use crate::plan::{ExecFile, LoadPlan, LoadRequest, MapSource, PlannedMap, StackAccess, Vdso};
use crate::script::{Program, read_up_to};
use crate::stack::{self, Auxiliary};
use crate::vdso;

/// Largest program header table that Linux reads.
const MAX_PHDR_BYTES: usize = 65536;

/// In which role a file is loaded; it decides which error a bad file gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Program,
    Interpreter,
}

/// A checked ELF file.
struct Object {
    entry: u64,
    phdr_vaddr: u64,
    phnum: u16,
    relocatable: bool,
    interpreter: Option<Vec<u8>>,
    stack: StackAccess,
    loads: Vec<Phdr>,
    /// Page-aligned start and unaligned end of all segments, before relocation.
    start: u64,
    end: u64,
    align: u64,
}

/// An object with its place.
struct Placed {
    /// Added to each address in the file, wrapping.
    bias: u64,
    entry: Addr,
    range: AddrRange,
}

impl Object {
    fn read<F: ExecFile>(file: &F, role: Role) -> Result<Self, Errno> {
        let bad = match role {
            Role::Program => Errno::ENOEXEC,
            Role::Interpreter => Errno::ELIBBAD,
        };
        let mut ehdr = Ehdr::new_zeroed();
        let got = read_up_to(file, 0, ehdr.as_mut_bytes())?;
        if role == Role::Interpreter && got < size_of::<Ehdr>() {
            return Err(Errno::EIO);
        }
        if !ehdr.e_ident.starts_with(&ELFMAG) || ehdr.e_machine != EM_X86_64 {
            return Err(bad);
        }
        let relocatable = match ehdr.e_type {
            ET_EXEC => false,
            ET_DYN => true,
            _ => return Err(bad),
        };
        let phdrs = read_phdrs(file, &ehdr).ok_or(bad)?;

        let mut object = Self {
            entry: ehdr.e_entry,
            phdr_vaddr: 0,
            phnum: ehdr.e_phnum,
            relocatable,
            interpreter: None,
            stack: StackAccess::NoExec,
            loads: Vec::new(),
            start: u64::MAX,
            end: 0,
            align: PAGE_SIZE,
        };
        for phdr in phdrs {
            match phdr.p_type {
                PT_INTERP if role == Role::Program && object.interpreter.is_none() => {
                    object.interpreter = Some(read_interpreter_path(file, &phdr)?);
                }
                PT_GNU_STACK => {
                    object.stack = if phdr.p_flags & PF_X != 0 { StackAccess::Exec } else { StackAccess::NoExec };
                }
                PT_LOAD => object.add_load(phdr)?,
                _ => {}
            }
        }
        if object.loads.is_empty() || object.end <= object.start {
            return Err(Errno::EINVAL);
        }
        object.phdr_vaddr = object
            .loads
            .iter()
            .find(|load| load.p_offset <= ehdr.e_phoff && ehdr.e_phoff - load.p_offset < load.p_filesz)
            .map_or(0, |load| load.p_vaddr.wrapping_add(ehdr.e_phoff - load.p_offset));
        Ok(object)
    }

    fn add_load(&mut self, phdr: Phdr) -> Result<(), Errno> {
        let end = phdr.p_vaddr.checked_add(phdr.p_memsz).ok_or(Errno::EINVAL)?;
        if phdr.p_filesz > phdr.p_memsz || phdr.p_offset.checked_add(phdr.p_filesz).is_none() {
            return Err(Errno::EINVAL);
        }
        // What mmap(2) would refuse: an offset that is no page boundary.
        if phdr.p_filesz > 0 && phdr.p_vaddr % PAGE_SIZE != phdr.p_offset % PAGE_SIZE {
            return Err(Errno::EINVAL);
        }
        if Addr(end).page_up().is_none() {
            return Err(Errno::EINVAL);
        }
        if phdr.p_align.is_power_of_two() {
            self.align = self.align.max(phdr.p_align);
        }
        if phdr.p_memsz > 0 {
            self.start = self.start.min(Addr(phdr.p_vaddr).page_down().0);
            self.end = self.end.max(end);
            self.loads.push(phdr);
        }
        Ok(())
    }

    /// Chooses the object's addresses.
    fn place(&self, placer: &mut Placer, role: Role, random: u64) -> Result<Placed, Errno> {
        let start = Addr(self.start);
        let end = Addr(self.end).page_up().ok_or(Errno::EINVAL)?;
        let whole = AddrRange::new(start, end).ok_or(Errno::EINVAL)?;
        let range = if !self.relocatable {
            placer.fixed(whole)?;
            whole
        } else if role == Role::Program && self.interpreter.is_some() {
            placer.program(whole.len(), self.align, random)?
        } else {
            // The dynamic linker, also when run by hand, and static programs that relocate themselves.
            placer.anywhere(whole.len(), self.align)?
        };
        let bias = range.start.0.wrapping_sub(self.start);
        Ok(Placed { bias, entry: Addr(self.entry.wrapping_add(bias)), range })
    }

    /// The mappings of the object, which is file number `file` of the plan.
    fn map(&self, placed: &Placed, file: usize, maps: &mut Vec<PlannedMap>) -> Result<(), Errno> {
        for load in &self.loads {
            let start = Addr(load.p_vaddr.wrapping_add(placed.bias));
            let file_end = start.checked_add(load.p_filesz).ok_or(Errno::EINVAL)?;
            let mem_end = start.checked_add(load.p_memsz).ok_or(Errno::EINVAL)?;
            let prot = prot_of(load.p_flags);
            let mut anonymous_start = start.page_down();
            if load.p_filesz > 0 {
                anonymous_start = file_end.page_up().ok_or(Errno::EINVAL)?;
                let range = AddrRange::new(start.page_down(), anonymous_start).ok_or(Errno::EINVAL)?;
                let offset = load.p_offset.checked_sub(start.page_offset()).ok_or(Errno::EINVAL)?;
                // A bss in a read-only segment keeps whatever the file has there, as on Linux.
                let zeroed =
                    load.p_memsz > load.p_filesz && !file_end.is_page_aligned() && prot.contains(ProtFlags::PROT_WRITE);
                let zero_from = zeroed.then_some(file_end);
                maps.push(PlannedMap { range, source: MapSource::File { file, offset }, prot, zero_from });
            }
            let end = mem_end.page_up().ok_or(Errno::EINVAL)?;
            if anonymous_start < end {
                let range = AddrRange::new(anonymous_start, end).ok_or(Errno::EINVAL)?;
                let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | (prot & ProtFlags::PROT_EXEC);
                maps.push(PlannedMap { range, source: MapSource::Anonymous, prot, zero_from: None });
            }
        }
        Ok(())
    }
}

fn prot_of(flags: u32) -> ProtFlags {
    let mut prot = ProtFlags::empty();
    prot.set(ProtFlags::PROT_READ, flags & PF_R != 0);
    prot.set(ProtFlags::PROT_WRITE, flags & PF_W != 0);
    prot.set(ProtFlags::PROT_EXEC, flags & PF_X != 0);
    prot
}

fn read_phdrs<F: ExecFile>(file: &F, ehdr: &Ehdr) -> Option<Vec<Phdr>> {
    if usize::from(ehdr.e_phentsize) != size_of::<Phdr>() || ehdr.e_phnum == 0 {
        return None;
    }
    let len = usize::from(ehdr.e_phnum) * size_of::<Phdr>();
    if len > MAX_PHDR_BYTES {
        return None;
    }
    let mut bytes = vec![0; len];
    if read_up_to(file, ehdr.e_phoff, &mut bytes).ok()? < len {
        return None;
    }
    bytes.chunks_exact(size_of::<Phdr>()).map(|chunk| Phdr::read_from_bytes(chunk).ok()).collect()
}

fn read_interpreter_path<F: ExecFile>(file: &F, phdr: &Phdr) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(phdr.p_filesz).map_err(|_| Errno::ENOEXEC)?;
    if !(2..=PATH_MAX).contains(&len) {
        return Err(Errno::ENOEXEC);
    }
    let mut path = vec![0; len];
    if read_up_to(file, phdr.p_offset, &mut path)? < len {
        return Err(Errno::EIO);
    }
    if path.last() != Some(&0) {
        return Err(Errno::ENOEXEC);
    }
    let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
    path.truncate(end);
    Ok(path)
}

impl<F: ExecFile> Program<F> {
    /// Lays the program out. `open` opens its ELF interpreter for execution.
    ///
    /// Errors: `ENOEXEC` for what is no x86-64 ELF program, `ELIBBAD` for an interpreter that is none, `E2BIG` for
    /// arguments past the limits, `EINVAL` and `ENOMEM` for segments that cannot be mapped, and what `open` answers.
    pub fn plan(
        self,
        request: &LoadRequest<'_>,
        open: &mut dyn FnMut(&[u8]) -> Result<F, Errno>,
    ) -> Result<LoadPlan<F>, Errno> {
        stack::check_limits(&self.argv, request)?;
        let program = Object::read(&self.file, Role::Program)?;
        let mut files = vec![self.file];
        let mut interpreter = None;
        if let Some(path) = &program.interpreter {
            let file = open(path)?;
            interpreter = Some(Object::read(&file, Role::Interpreter)?);
            files.push(file);
        }

        let mut placer = Placer::new(request);
        let mut maps = Vec::new();
        // A program that says where it wants to be comes first; everything else goes around it and the stack.
        let fixed_first =
            if program.relocatable { None } else { Some(program.place(&mut placer, Role::Program, 0)?) };
        let stack_top = placer.stack_top(request.random.stack)?;
        let strings = stack::measure(stack_top, &self.argv, request)?;
        placer.fixed(strings.range)?;
        let placed = match fixed_first {
            Some(placed) => placed,
            None => program.place(&mut placer, Role::Program, request.random.exec)?,
        };
        if placed.range.intersect(strings.range).is_some() {
            return Err(Errno::ENOMEM);
        }
        program.map(&placed, 0, &mut maps)?;

        let mut vdso_start = None;
        if request.vdso == Vdso::Mapped {
            let len = vdso::MAPPED_LEN;
            let range = placer.anywhere(len, PAGE_SIZE)?;
            let code = range.start.checked_add(vdso::CODE_OFFSET).ok_or(Errno::ENOMEM)?;
            let pieces = [
                (range.start, code, MapSource::Vvar, ProtFlags::PROT_READ),
                (code, range.end, MapSource::Vdso, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC),
            ];
            for (start, end, source, prot) in pieces {
                let range = AddrRange::new(start, end).ok_or(Errno::ENOMEM)?;
                maps.push(PlannedMap { range, source, prot, zero_from: None });
            }
            vdso_start = Some(code);
        }

        let mut entry = placed.entry;
        let mut base = Addr(0);
        if let Some(interpreter) = &interpreter {
            let placed = interpreter.place(&mut placer, Role::Interpreter, 0)?;
            if placed.range.intersect(strings.range).is_some() {
                return Err(Errno::ENOMEM);
            }
            interpreter.map(&placed, 1, &mut maps)?;
            entry = placed.entry;
            base = Addr(placed.bias);
        }
        if !request.user.contains(entry) {
            return Err(Errno::EINVAL);
        }

        let break_after = if program.relocatable && interpreter.is_none() {
            // A static program in the mapping area has no room above it, so its break goes where programs usually are.
            placer.program_base()
        } else {
            Addr(program.end.wrapping_add(placed.bias))
        };
        let start_brk = placer.brk(break_after, request.random.brk)?;

        let auxiliary = Auxiliary {
            vdso: vdso_start,
            phdr: Addr(program.phdr_vaddr.wrapping_add(if program.phdr_vaddr == 0 { 0 } else { placed.bias })),
            phnum: program.phnum,
            base,
            entry: placed.entry,
        };
        let built = stack::build(&strings, &self.argv, request, &auxiliary, program.stack)?;
        let mut layout = built.layout;
        layout.mmap_base = placer.mmap_base;
        layout.mmap_direction = placer.direction;
        layout.start_brk = start_brk;
        program.describe(&placed, &mut layout);
        Ok(LoadPlan {
            files,
            maps,
            stack: built.stack,
            entry,
            layout,
            vdso: vdso_start,
            auxv: built.auxv,
            comm: stack::comm(request.path),
        })
    }
}

impl Object {
    /// Fills in where code and data lie.
    fn describe(&self, placed: &Placed, layout: &mut crate::plan::Layout) {
        let at = |address: u64| Addr(address.wrapping_add(placed.bias));
        let code = || self.loads.iter().filter(|load| load.p_flags & PF_X != 0);
        let end = |load: &Phdr| load.p_vaddr.wrapping_add(load.p_filesz);
        layout.start_code = at(code().map(|load| load.p_vaddr).min().unwrap_or(self.start));
        layout.end_code = at(code().map(end).max().unwrap_or(self.start));
        layout.start_data = at(self.loads.iter().map(|load| load.p_vaddr).max().unwrap_or(self.start));
        layout.end_data = at(self.loads.iter().map(end).max().unwrap_or(self.start));
    }
}

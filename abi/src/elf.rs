//! Executables: `elf(5)`. `linux/elf.h`, `linux/elf-em.h`.

consts! {
    [u8; 4] {
        ELFMAG = *b"\x7fELF",
    }
    usize {
        EI_CLASS = 4,
        EI_DATA = 5,
        EI_VERSION = 6,
        EI_OSABI = 7,
    }
    u8 {
        ELFCLASS64 = 2,
        ELFDATA2LSB = 1,
        EV_CURRENT = 1,
    }
    u16 {
        ET_NONE = 0,
        ET_REL = 1,
        ET_EXEC = 2,
        ET_DYN = 3,
        ET_CORE = 4,
        EM_386 = 3,
        EM_X86_64 = 62,
        EM_AARCH64 = 183,
        PN_XNUM = 0xffff,
    }
    u32 {
        PT_NULL = 0,
        PT_LOAD = 1,
        PT_DYNAMIC = 2,
        PT_INTERP = 3,
        PT_NOTE = 4,
        PT_SHLIB = 5,
        PT_PHDR = 6,
        PT_TLS = 7,
        PT_GNU_EH_FRAME = 0x6474_e550,
        PT_GNU_STACK = 0x6474_e551,
        PT_GNU_RELRO = 0x6474_e552,
        PT_GNU_PROPERTY = 0x6474_e553,
        PF_X = 1,
        PF_W = 2,
        PF_R = 4,
    }
    u32 {
        NT_PRSTATUS = 1,
        NT_PRFPREG = 2,
        NT_PRPSINFO = 3,
        NT_AUXV = 6,
        NT_SIGINFO = 0x5349_4749,
        NT_FILE = 0x4649_4c45,
        NT_X86_XSTATE = 0x202,
    }
}

uapi_struct! {
    /// `Elf64_Ehdr`.
    pub struct Ehdr {
        pub e_ident: [u8; 16],
        pub e_type: u16,
        pub e_machine: u16,
        pub e_version: u32,
        pub e_entry: u64,
        pub e_phoff: u64,
        pub e_shoff: u64,
        pub e_flags: u32,
        pub e_ehsize: u16,
        pub e_phentsize: u16,
        pub e_phnum: u16,
        pub e_shentsize: u16,
        pub e_shnum: u16,
        pub e_shstrndx: u16,
    }
    /// `Elf64_Phdr`.
    pub struct Phdr {
        pub p_type: u32,
        pub p_flags: u32,
        pub p_offset: u64,
        pub p_vaddr: u64,
        pub p_paddr: u64,
        pub p_filesz: u64,
        pub p_memsz: u64,
        pub p_align: u64,
    }
    /// `Elf64_Nhdr`.
    pub struct Nhdr {
        pub n_namesz: u32,
        pub n_descsz: u32,
        pub n_type: u32,
    }
}

layout! {
    Ehdr: 64, e_entry @ 24, e_phnum @ 56;
    Phdr: 56, p_vaddr @ 16, p_align @ 48;
    Nhdr: 12;
}

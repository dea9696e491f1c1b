//! Turning a `syscall` instruction into a jump, forwards: the two bytes of the instruction and the next three become
//! `jmp rel32` to a *slot*, which makes the call and then executes copies of the instructions that were displaced: one, or
//! two where the first has two bytes.
//!
//! ```text
//! site:  0f 05 f0 f1 f2 ..    ->   e9 d0 d1 d2 d3 ..          d1 lies where the next instruction started
//! site:  0f 05 f0 f1 g0 ..    ->   e9 d0 d1 d2 d3 ..          and d3 where the one after it did
//!
//! slot:  lea CALLED(%rip), %rcx         what the CPU would leave in rcx
//!        jmp *ENTRY(%rip)               to who serves calls without a trap
//! TRAP:  syscall                        to who does not
//! CALLED: <the displaced instructions>
//!        jmp <the instruction after them>
//! ```
//! - The boundary is exact by construction: decoding starts where the CPU went on after executing the `syscall`.
//! - Whoever jumps to a displaced instruction finds `d1` or `d3`, which are chosen among the opcodes that always trap; the
//!   fault is resolved by going on at its copy.
//! - `CALLED - 2` is a `syscall` instruction, so calls are restarted as at the site.
//! - No stack is used and no flag changed.
//!
//! Only instructions that mean the same elsewhere are displaced: a short list, not a decoder. All of this is bit work;
//! where slots and shadow pages are is the memory manager's business.

/// Bytes of a site that change.
pub const JUMP_LEN: usize = 5;

/// The longest instruction.
const INSTRUCTION_MAX: usize = 15;

/// Bytes from a site that [`Site::decode`] wants to see, when there are as many.
pub const SITE_WINDOW: usize = 2 + 2 + INSTRUCTION_MAX;

/// The most bytes of a slot.
pub const SLOT_MAX: usize = 48;

/// Start of [`Slot::bytes`] to the `syscall` in it.
pub const SLOT_TRAP: usize = 13;

/// Start of [`Slot::bytes`] to where a call returns.
pub const SLOT_CALLED: usize = 15;

const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Opcodes of one byte that raise #UD or #GP in 64-bit user code, whatever follows, with rip at themselves: what 64-bit mode
/// took away, and what only a kernel may do (no thread of ours has I/O permissions). 0xce, 0xd4 and 0xd6 are left out because
/// QEMU's emulated CPU executes them.
const TRAPPING: [u8; 31] = [
    0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x6c, 0x6d, 0x6e, 0x6f, 0x82, 0x9a,
    0xe4, 0xe5, 0xe6, 0xe7, 0xea, 0xec, 0xed, 0xee, 0xef, 0xf4, 0xfa, 0xfb,
];

/// Whether `byte` as an opcode always traps.
pub fn traps(byte: u8) -> bool {
    TRAPPING.contains(&byte)
}

/// What the displaced instruction becomes in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Displaced {
    /// The same bytes.
    Same,
    /// `ret`: nothing comes after it.
    Return,
    /// A conditional jump, by its condition, over `distance` bytes from its end.
    Branch { condition: u8, distance: i32 },
    /// An unconditional jump over `distance` bytes from its end.
    Jump { distance: i32 },
}

/// An instruction that has a copy in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Instruction {
    bytes: [u8; INSTRUCTION_MAX],
    len: usize,
    kind: Displaced,
}

/// A `syscall` instruction that can be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    first: Instruction,
    /// Where the first has two bytes only.
    second: Option<Instruction>,
}

/// A slot's code for one site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    code: [u8; SLOT_MAX],
    len: usize,
    /// Start of the slot to the copy of the second displaced instruction, if there is one.
    pub second: Option<usize>,
    /// Start of the slot to the jump behind the displaced instructions (the end, if there is none).
    pub tail: usize,
}

impl Slot {
    /// The code.
    pub fn bytes(&self) -> &[u8] {
        self.code.get(..self.len).unwrap_or_default()
    }
}

impl Site {
    /// Looks at the code from a `syscall` instruction on. `None`: it has to stay.
    pub fn decode(code: &[u8]) -> Option<Self> {
        let after = code.strip_prefix(&SYSCALL)?;
        let first = Instruction::decode(after)?;
        let behind = after.get(first.len..)?;
        let second = match (first.len, first.kind) {
            (JUMP_TAKES.., _) => None,
            (_, Displaced::Return) if is_padding(behind) => None,
            // Where a jump goes past it, the second instruction is where others come from: each of them would trap.
            (2, Displaced::Jump { .. }) if !is_padding(behind) => return None,
            (2, _) => Some(Instruction::decode(behind)?),
            _ => return None,
        };
        let site = Self { first, second };
        (!site.loops()).then_some(site)
    }

    /// Whether a displaced instruction goes to a displaced instruction, and so would trap each time.
    fn loops(&self) -> bool {
        let first = Some((self.first, 2 + self.first.len));
        [first, self.second.map(|second| (second, self.len()))].into_iter().flatten().any(|(instruction, end)| {
            let (Displaced::Branch { distance, .. } | Displaced::Jump { distance }) = instruction.kind else {
                return false;
            };
            (1..JUMP_LEN as i64).contains(&(end as i64 + i64::from(distance)))
        })
    }

    /// Bytes from the site to the instruction behind the displaced ones.
    pub fn len(&self) -> usize {
        2 + self.first.len + self.second.map_or(0, |second| second.len)
    }

    /// Sites are never empty; here because [`Site::len`] is.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes from the site to the second displaced instruction.
    pub fn second(&self) -> Option<usize> {
        self.second.map(|_| 2 + self.first.len)
    }

    /// The jump from this site at `site` to `slot`, if it traps where displaced instructions started.
    pub fn jump(&self, site: u64, slot: u64) -> Option<[u8; JUMP_LEN]> {
        let jump = jump(site, slot)?;
        let starts = [Some(2), self.second()];
        starts.into_iter().flatten().all(|at| jump.get(at).is_some_and(|byte| traps(*byte))).then_some(jump)
    }

    /// The code of a slot at `slot` for this site at `site`; the address that it jumps to lies at `entry`.
    pub fn slot(&self, site: u64, slot: u64, entry: u64) -> Option<Slot> {
        let mut code = Code { bytes: [0; SLOT_MAX], len: 0, at: slot };
        code.put(&[0x48, 0x8d, 0x0d])?;
        code.put(&(SLOT_CALLED as i32 - 7).to_le_bytes())?;
        code.put(&[0xff, 0x25])?;
        code.put_distance(entry)?;
        code.put(&SYSCALL)?;
        let mut behind = site.checked_add(2)?.checked_add(self.first.len as u64)?;
        code.put_instruction(&self.first, behind)?;
        let mut second = None;
        if let Some(instruction) = &self.second {
            second = Some(code.len);
            behind = behind.checked_add(instruction.len as u64)?;
            code.put_instruction(instruction, behind)?;
        }
        let tail = code.len;
        if self.second.unwrap_or(self.first).goes_on() {
            code.put(&[0xe9])?;
            code.put_distance(behind)?;
        }
        Some(Slot { code: code.bytes, len: code.len, second, tail })
    }
}

/// The jump from `site` to `slot`, if 32 bits reach it.
pub fn jump(site: u64, slot: u64) -> Option<[u8; JUMP_LEN]> {
    let [d0, d1, d2, d3] = distance(site, JUMP_LEN, slot)?.to_le_bytes();
    Some([0xe9, d0, d1, d2, d3])
}

/// Bytes that a jump takes from behind the `syscall` instruction.
const JUMP_TAKES: usize = JUMP_LEN - SYSCALL.len();

/// Code being written at an address.
struct Code {
    bytes: [u8; SLOT_MAX],
    len: usize,
    at: u64,
}

impl Code {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// A copy of an instruction that ended at `behind`.
    fn put_instruction(&mut self, instruction: &Instruction, behind: u64) -> Option<()> {
        let target = |distance: i32| behind.checked_add_signed(i64::from(distance));
        match instruction.kind {
            Displaced::Same | Displaced::Return => self.put(instruction.bytes.get(..instruction.len)?),
            Displaced::Branch { condition, distance } => {
                self.put(&[0x0f, 0x80 | condition])?;
                self.put_distance(target(distance)?)
            }
            Displaced::Jump { distance } => {
                self.put(&[0xe9])?;
                self.put_distance(target(distance)?)
            }
        }
    }

    /// The distance to `target` from the end of the four bytes that say it.
    fn put_distance(&mut self, target: u64) -> Option<()> {
        let distance = distance(self.at, self.len + 4, target)?;
        self.put(&distance.to_le_bytes())
    }
}

/// From `len` bytes behind `from` to `to`, if 32 bits hold it.
fn distance(from: u64, len: usize, to: u64) -> Option<i32> {
    let from = from.checked_add(len as u64)?;
    i32::try_from(to.wrapping_sub(from) as i64).ok()
}

impl Instruction {
    /// The instruction at the start of `code`, if it may be displaced.
    fn decode(code: &[u8]) -> Option<Self> {
        let (len, kind) = displaced(code)?;
        let mut bytes = [0; INSTRUCTION_MAX];
        bytes.get_mut(..len)?.copy_from_slice(code.get(..len)?);
        Some(Self { bytes, len, kind })
    }

    /// Whether what comes after it may be executed next.
    fn goes_on(&self) -> bool {
        matches!(self.kind, Displaced::Same | Displaced::Branch { .. })
    }
}

/// Length and kind of the instruction at the start of `code`, if it means the same in another place, or can be made to.
fn displaced(code: &[u8]) -> Option<(usize, Displaced)> {
    let byte = |at: usize| code.get(at).copied();
    let near = |at: usize| Some(i32::from(i8::from_le_bytes([byte(at)?])));
    let word = |at: usize| Some(i32::from_le_bytes(code.get(at..at.checked_add(4)?)?.try_into().ok()?));
    match byte(0)? {
        0xc3 => Some((1, Displaced::Return)),
        0xeb => Some((2, Displaced::Jump { distance: near(1)? })),
        jcc @ 0x70..=0x7f => Some((2, Displaced::Branch { condition: jcc & 0xf, distance: near(1)? })),
        0xe9 => Some((5, Displaced::Jump { distance: word(1)? })),
        0x0f => match byte(1)? {
            jcc @ 0x80..=0x8f => Some((6, Displaced::Branch { condition: jcc & 0xf, distance: word(2)? })),
            // movzx, movsx, cmov
            0xb6 | 0xb7 | 0xbe | 0xbf | 0x40..=0x4f => same(2 + modrm_len(code.get(2..)?)?),
            _ => same(nop_len(code)?),
        },
        0x66 | 0x90 => same(nop_len(code)?),
        rex @ 0x40..=0x4f => {
            match byte(1)? {
                0x0f if matches!(byte(2)?, 0xb6 | 0xb7 | 0xbe | 0xbf | 0x40..=0x4f) => {
                    same(3 + modrm_len(code.get(3..)?)?)
                }
                // mov $imm, %r: eight bytes of it with REX.W
                0xb8..=0xbf if rex & 8 != 0 => same(10),
                _ => same(1 + plain_len(code.get(1..)?)?),
            }
        }
        _ => same(plain_len(code)?),
    }
    .filter(|(len, _)| *len <= INSTRUCTION_MAX)
}

fn same(len: usize) -> Option<(usize, Displaced)> {
    Some((len, Displaced::Same))
}

/// Length of a no-operation, as assemblers put them before what they align.
fn nop_len(code: &[u8]) -> Option<usize> {
    let prefixes = code.iter().take_while(|byte| matches!(byte, 0x66 | 0x2e)).count();
    match code.get(prefixes..)? {
        [0x90, ..] => Some(prefixes + 1),
        [0x0f, 0x1f, operand @ ..] => Some(prefixes + 2 + modrm_len(operand)?),
        _ => None,
    }
}

/// Length of an instruction without prefixes that only moves, compares or computes.
fn plain_len(code: &[u8]) -> Option<usize> {
    let modrm = || modrm_len(code.get(1..)?);
    match *code.first()? {
        // add or and sub xor cmp, test, xchg is not among them, mov, lea, movslq
        0x00..=0x03 | 0x08..=0x0b | 0x20..=0x23 | 0x28..=0x2b | 0x30..=0x33 | 0x38..=0x3b => Some(1 + modrm()?),
        0x63 | 0x84 | 0x85 | 0x88..=0x8b | 0x8d => Some(1 + modrm()?),
        // the same with an immediate for rax
        0x05 | 0x0d | 0x25 | 0x2d | 0x35 | 0x3d | 0xa9 => Some(5),
        0x3c | 0xa8 => Some(2),
        0x80 | 0x83 | 0xc1 => Some(2 + modrm()?),
        0x81 => Some(5 + modrm()?),
        // mov; with other digits these end or begin transactions
        0xc6 if code.get(1)? >> 3 & 7 == 0 => Some(2 + modrm()?),
        0xc7 if code.get(1)? >> 3 & 7 == 0 => Some(5 + modrm()?),
        0xd1 | 0xd3 => Some(1 + modrm()?),
        // test $imm and not/neg; mul and div can fault and are left alone
        0xf7 => match code.get(1)? >> 3 & 7 {
            0 => Some(5 + modrm()?),
            2 | 3 => Some(1 + modrm()?),
            _ => None,
        },
        0xb8..=0xbf => Some(5),
        _ => None,
    }
}

/// Length of a ModRM byte with what belongs to it. `None`: relative to rip.
fn modrm_len(code: &[u8]) -> Option<usize> {
    let modrm = *code.first()?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return Some(1);
    }
    let sib = if rm == 4 { Some(*code.get(1)?) } else { None };
    let displacement = match mode {
        0 if rm == 5 => return None,
        0 if sib.is_some_and(|sib| sib & 7 == 5) => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    Some(1 + usize::from(sib.is_some()) + displacement)
}

/// Whether two bytes are filled that nobody jumps to: what assemblers put between functions.
fn is_padding(code: &[u8]) -> bool {
    matches!(
        code,
        [0x90, 0x90, ..]
            | [0xcc, 0xcc, ..]
            | [0x66, 0x90, ..]
            | [0x0f, 0x1f, ..]
            | [0x66, 0x0f, 0x1f, ..]
            | [0x66, 0x2e, 0x0f, 0x1f, ..]
            | [0x66, 0x66, ..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(after: &[u8]) -> Option<Site> {
        let mut code = SYSCALL.to_vec();
        code.extend_from_slice(after);
        Site::decode(&code)
    }

    #[test]
    fn displaces_what_c_libraries_put_behind_a_call() {
        for (after, len) in [
            (&[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff][..], 6),   // cmp $-4096, %rax
            (&[0x3d, 0x00, 0xf0, 0xff, 0xff], 5),             // cmp $-4096, %eax
            (&[0x48, 0x83, 0xf8, 0xfc], 4),                   // cmp $-4, %rax
            (&[0x83, 0xf8, 0xda], 3),                         // cmp $-38, %eax
            (&[0x48, 0x89, 0xc7], 3),                         // mov %rax, %rdi
            (&[0x48, 0x89, 0x44, 0x24, 0x08], 5),             // mov %rax, 8(%rsp)
            (&[0x89, 0x84, 0x24, 1, 2, 3, 4], 7),             // mov %eax, disp32(%rsp)
            (&[0x48, 0x63, 0xd0], 3),                         // movslq %eax, %rdx
            (&[0x48, 0xf7, 0xd8], 3),                         // neg %rax
            (&[0x48, 0x85, 0xc0], 3),                         // test %rax, %rax
            (&[0x44, 0x89, 0xc7], 3),                         // mov %r8d, %edi
            (&[0x41, 0x89, 0x04, 0x25, 1, 2, 3, 4], 8),       // mov %eax, abs32
            (&[0x0f, 0x84, 1, 0, 0, 0], 6),                   // je
            (&[0xe9, 1, 0, 0, 0], 5),                         // jmp
            (&[0x49, 0xba, 1, 2, 3, 4, 5, 6, 7, 8], 10),      // movabs
            (&[0x0f, 0xb6, 0xc0], 3),                         // movzbl %al, %eax
            (&[0x89, 0xc2, 0xf7, 0xda], 4),                   // mov %eax, %edx; neg %edx
            (&[0x89, 0xc2, 0x3d, 0x00, 0xf0, 0xff, 0xff], 7), // mov %eax, %edx; cmp $-4096, %eax
            (&[0xf7, 0xd8, 0xc3], 3),                         // neg %eax; ret
            (&[0x85, 0xc0, 0x75, 0x10], 4),                   // test %eax, %eax; jne
            (&[0x74, 0x10, 0x31, 0xc0], 4),                   // je; xor %eax, %eax
            (&[0xeb, 0x10, 0x66, 0x90], 4),                   // jmp, padding
            (&[0xeb, 0x10, 0x0f, 0x1f, 0x40, 0x00], 6),       // jmp, padding
            (&[0xeb, 0x10, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], 12),
        ] {
            assert_eq!(site(after).map(|site| site.len()), Some(len + 2), "{after:02x?}");
        }
        assert_eq!(site(&[0xc3, 0x90, 0x90]).map(|site| site.len()), Some(3));
        assert_eq!(site(&[0xc3, 0x66, 0x2e, 0x0f, 0x1f]).map(|site| site.len()), Some(3));
    }

    #[test]
    fn leaves_what_would_mean_something_else() {
        for after in [
            &[0x48, 0x8b, 0x05, 1, 2, 3, 4][..], // mov disp(%rip), %rax
            &[0xe8, 1, 2, 3, 4],                 // call
            &[0xff, 0xd0, 0x90],                 // call *%rax
            &[0x5b, 0x90, 0x90],                 // pop
            &[0x85, 0xc0, 0xe8, 1, 2, 3, 4],     // test, and a call behind it
            &[0x85, 0xc0],                       // test, and nothing to be seen behind it
            &[0xeb, 0x10, 0x31, 0xc0],           // short jump, and code behind it
            &[0xeb, 0x10, 0xcc, 0xcc],           // the same, and padding that has a meaning
            &[0xeb, 0x00, 0x66, 0x90],           // short jump to what would trap
            &[0x85, 0xc0, 0x74, 0xfc],           // short branch back to it
            &[0xc3, 0x48, 0x89],                 // ret, and code behind it
            &[0xc3],
            &[0xf7, 0xf1, 0x90],       // div
            &[0x0f, 0x05, 0x90],       // syscall
            &[0xc7, 0xf8, 1, 0, 0, 0], // xbegin: relative to rip
            &[0x48, 0x3d, 0x00],       // cut off
            &[],
        ] {
            assert_eq!(site(after), None, "{after:02x?}");
        }
        assert_eq!(Site::decode(&[0x0f, 0x34, 0x48, 0x89, 0xc7]), None, "no syscall instruction");
    }

    #[test]
    fn a_slot_calls_then_does_what_was_displaced() {
        let cmp = site(&[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff]).expect("can be displaced");
        let slot = cmp.slot(0x1000, 0x20_0100, 0x20_0000).expect("in reach");
        let code = slot.bytes();
        assert_eq!(&code[..7], [0x48, 0x8d, 0x0d, 8, 0, 0, 0]);
        assert_eq!(&code[7..9], [0xff, 0x25]);
        assert_eq!(i32::from_le_bytes(code[9..13].try_into().unwrap()), 0x20_0000 - (0x20_0100 + 13));
        assert_eq!(&code[SLOT_TRAP..SLOT_CALLED], SYSCALL);
        assert_eq!(&code[SLOT_CALLED..slot.tail], [0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff]);
        assert_eq!(code[slot.tail], 0xe9);
        let back = i32::from_le_bytes(code[slot.tail + 1..].try_into().unwrap());
        assert_eq!(i64::from(back), 0x1008 - (0x20_0100 + code.len() as i64));
    }

    #[test]
    fn branches_keep_their_targets() {
        let je = site(&[0x0f, 0x84, 0x10, 0, 0, 0]).expect("can be displaced");
        let slot = je.slot(0x1000, 0x3000, 0x2000).expect("in reach");
        let code = slot.bytes();
        let taken = i32::from_le_bytes(code[SLOT_CALLED + 2..SLOT_CALLED + 6].try_into().unwrap());
        assert_eq!(0x3000 + SLOT_CALLED as i64 + 6 + i64::from(taken), 0x1008 + 0x10);
        let jump = site(&[0xe9, 0xf0, 0xff, 0xff, 0xff]).expect("can be displaced");
        let slot = jump.slot(0x1000, 0x3000, 0x2000).expect("in reach");
        assert_eq!(slot.tail, slot.bytes().len(), "nothing behind an unconditional jump");
    }

    #[test]
    fn two_short_instructions_follow_each_other_in_the_slot() {
        let pair = site(&[0x85, 0xc0, 0x75, 0x10]).expect("can be displaced");
        assert_eq!((pair.len(), pair.second()), (6, Some(4)));
        let slot = pair.slot(0x1000, 0x3000, 0x2000).expect("in reach");
        let code = slot.bytes();
        assert_eq!(code[SLOT_CALLED..SLOT_CALLED + 4], [0x85, 0xc0, 0x0f, 0x85]);
        assert_eq!((slot.second, slot.tail), (Some(SLOT_CALLED + 2), SLOT_CALLED + 8));
        let target = |at: usize| {
            let distance = i32::from_le_bytes(code[at..at + 4].try_into().unwrap());
            0x3000 + at as i64 + 4 + i64::from(distance)
        };
        assert_eq!((target(SLOT_CALLED + 4), target(slot.tail + 1)), (0x1006 + 0x10, 0x1006));
        let returns =
            site(&[0xf7, 0xd8, 0xc3]).expect("can be displaced").slot(0x1000, 0x3000, 0x2000).expect("in reach");
        assert_eq!(returns.bytes()[SLOT_CALLED..], [0xf7, 0xd8, 0xc3], "nothing behind it");
    }

    #[test]
    fn jumps_always_trap_where_displaced_instructions_started() {
        let one = site(&[0x48, 0x89, 0xc7]).expect("can be displaced");
        let two = site(&[0x89, 0xc2, 0xf7, 0xda]).expect("can be displaced");
        let (mut ones, mut twos) = (0, 0);
        for slot in (0x10_0000_u64..0x10_5000).chain(0x700_0000..0x700_5000).step_by(16) {
            let bytes = jump(0x1234, slot).expect("in reach");
            let distance = i32::from_le_bytes(bytes[1..].try_into().unwrap());
            assert_eq!(0x1234 + 5 + i64::from(distance), slot as i64);
            assert_eq!(one.jump(0x1234, slot), traps(bytes[2]).then_some(bytes));
            assert_eq!(two.jump(0x1234, slot), (traps(bytes[2]) && traps(bytes[4])).then_some(bytes));
            ones += u32::from(one.jump(0x1234, slot).is_some());
            twos += u32::from(two.jump(0x1234, slot).is_some());
        }
        assert!(ones > twos && twos > 0, "20 KiB of slots always hold one that is legal");
        assert_eq!(jump(0, 1 << 33), None, "out of reach");
    }

    #[test]
    fn any_20_kib_hold_a_legal_slot() {
        for start in 0..256_u32 {
            let legal = (0..80).any(|window| traps(((start + window) % 256) as u8));
            assert!(legal, "windows from {start:#x} on");
        }
    }
}

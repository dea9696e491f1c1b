//! Where the stub's code is, and its entry points in it.

mod labels {
    unsafe extern "C" {
        pub(super) static casemate_stub_start: u8;
        pub(super) static casemate_stub_end: u8;
        pub(super) static casemate_stub_trap: u8;
        pub(super) static casemate_stub_kick: u8;
        pub(super) static casemate_stub_call: u8;
        pub(super) static casemate_stub_call_swapped: u8;
        pub(super) static casemate_stub_call_window: u8;
        pub(super) static casemate_stub_call_taken: u8;
        pub(super) static casemate_stub_zygote: u8;
        pub(super) static casemate_stub_handed: u8;
        pub(super) static casemate_stub_renewed: u8;
    }
}

/// Offsets of the stub's entry points in its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries {
    /// Handler of synchronous signals.
    pub(crate) trap: u64,
    /// Handler of [`crate::layout::KICK_SIGNAL`].
    pub(crate) kick: u64,
    /// Where the zygote starts.
    pub(crate) zygote: u64,
    /// Where patched sites jump to.
    pub(crate) call: u64,
    /// In it: from here on the return address is in r11, before it in rcx.
    pub(crate) call_swapped: u64,
    /// In it: four bytes that say where our slabs are ([`call_window`]).
    pub(crate) call_window: u64,
    /// In it: from here on the registers are ours.
    pub(crate) call_taken: u64,
    /// Where the hand-over by notification returns to.
    pub(crate) handed: u64,
    /// Where a thread faults when it has forgotten its guest.
    pub(crate) renewed: u64,
}

/// What the entry of patched sites adds to the upper half of the GS base, its bytes swapped, to get 0 for the slabs of a
/// stub region at `base`, which lies in one window of 4 GiB.
pub(crate) fn call_window(base: u64) -> u32 {
    ((base >> 32) as u32).swap_bytes().wrapping_neg()
}

/// The stub's text.
pub(crate) fn text() -> &'static [u8] {
    let start = &raw const labels::casemate_stub_start;
    let end = &raw const labels::casemate_stub_end;
    // SAFETY: both labels bound one section of this binary, readable and never written.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Where in [`text`] the entry points are.
pub(crate) fn entries() -> Entries {
    let start = (&raw const labels::casemate_stub_start).addr();
    let offset = |label: *const u8| (label.addr() - start) as u64;
    Entries {
        trap: offset(&raw const labels::casemate_stub_trap),
        kick: offset(&raw const labels::casemate_stub_kick),
        zygote: offset(&raw const labels::casemate_stub_zygote),
        call: offset(&raw const labels::casemate_stub_call),
        call_swapped: offset(&raw const labels::casemate_stub_call_swapped),
        call_window: offset(&raw const labels::casemate_stub_call_window),
        call_taken: offset(&raw const labels::casemate_stub_call_taken),
        handed: offset(&raw const labels::casemate_stub_handed),
        renewed: offset(&raw const labels::casemate_stub_renewed),
    }
}

//! Functions as handlers: any `fn(&mut Task, A, B, …) -> Result<R, E>` whose arguments are [`FromRaw`].

use super::{ArgKind, FromRaw, RawArgs, RetKind, SysErr, SysResult};
use crate::task::Task;

/// What a handler returns, as the result register's value.
pub trait IntoRet {
    /// How traces show it.
    const KIND: RetKind = RetKind::Number;

    /// The register's value.
    fn into_ret(self) -> u64;
}

impl IntoRet for () {
    fn into_ret(self) -> u64 {
        0
    }
}

impl IntoRet for u64 {
    fn into_ret(self) -> u64 {
        self
    }
}

impl IntoRet for usize {
    fn into_ret(self) -> u64 {
        self as u64
    }
}

impl IntoRet for u32 {
    fn into_ret(self) -> u64 {
        u64::from(self)
    }
}

impl IntoRet for i32 {
    fn into_ret(self) -> u64 {
        i64::from(self).cast_unsigned()
    }
}

impl IntoRet for i64 {
    fn into_ret(self) -> u64 {
        self.cast_unsigned()
    }
}

impl IntoRet for usermem::Addr {
    const KIND: RetKind = RetKind::Hex;

    fn into_ret(self) -> u64 {
        self.0
    }
}

/// A function that can stand in a row; `A` is the tuple of its argument types.
pub trait Handler<A> {
    /// The kinds of its arguments.
    const ARGS: &'static [ArgKind];
    /// The kind of its result.
    const RET: RetKind;

    /// Decodes the registers and calls.
    fn call(&self, task: &mut Task, args: RawArgs) -> SysResult;
}

macro_rules! handler {
    ($($t:ident $i:tt),*) => {
        impl<F, R, E, $($t),*> Handler<($($t,)*)> for F
        where
            F: Fn(&mut Task, $($t),*) -> Result<R, E>,
            R: IntoRet,
            E: Into<SysErr>,
            $($t: FromRaw,)*
        {
            const ARGS: &'static [ArgKind] = &[$($t::KIND),*];
            const RET: RetKind = R::KIND;

            fn call(&self, task: &mut Task, args: RawArgs) -> SysResult {
                let RawArgs(_args) = args;
                self(task, $($t::from_raw(_args[$i])),*).map(IntoRet::into_ret).map_err(Into::into)
            }
        }
    };
}

handler!();
handler!(A 0);
handler!(A 0, B 1);
handler!(A 0, B 1, C 2);
handler!(A 0, B 1, C 2, D 3);
handler!(A 0, B 1, C 2, D 3, G 4);
handler!(A 0, B 1, C 2, D 3, G 4, H 5);

/// The argument kinds of the handler `_f`; a function so that its type need not be named.
pub const fn args_of<A, F: Handler<A>>(_f: &F) -> &'static [ArgKind] {
    F::ARGS
}

/// The kind of what the handler `_f` returns.
pub const fn ret_of<A, F: Handler<A>>(_f: &F) -> RetKind {
    F::RET
}

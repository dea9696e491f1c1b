//! What `/proc/sys/kernel` lets one set of a family's table.

use abi::Errno;

use super::Ipc;
use super::table::Settings;

/// A setting that takes writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TableKnob {
    /// Most objects: `msgmni`, `shmmni`.
    Limit,
    /// The id of the next object, -1 for any: `*_next_id`.
    NextId,
}

/// A family of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Messages,
    Semaphores,
    SharedMemory,
}

impl TableKnob {
    /// Each by its name, with the family that it is of.
    pub(crate) const ALL: [(&str, Family, Self); 5] = [
        ("msg_next_id", Family::Messages, Self::NextId),
        ("msgmni", Family::Messages, Self::Limit),
        ("sem_next_id", Family::Semaphores, Self::NextId),
        ("shm_next_id", Family::SharedMemory, Self::NextId),
        ("shmmni", Family::SharedMemory, Self::Limit),
    ];

    fn of(self, table: &dyn Settings) -> i64 {
        match self {
            Self::Limit => i64::try_from(table.limit()).unwrap_or(i64::MAX),
            Self::NextId => table.wanted_id().map_or(-1, i64::from),
        }
    }

    fn set(self, table: &mut dyn Settings, value: i64) -> Result<(), Errno> {
        match self {
            Self::Limit => table.set_limit(usize::try_from(value).map_err(|_| Errno::EINVAL)?),
            Self::NextId => {
                let id = i32::try_from(value).map_err(|_| Errno::EINVAL)?;
                table.want_id((id >= 0).then_some(id));
                Ok(())
            }
        }
    }
}

impl Ipc {
    /// What a setting is.
    pub(crate) fn knob(&self, family: Family, knob: TableKnob) -> i64 {
        match family {
            Family::Messages => self.msg.with_settings(|table| knob.of(table)),
            Family::Semaphores => self.sem.with_settings(|table| knob.of(table)),
            Family::SharedMemory => self.shm.with_settings(|table| knob.of(table)),
        }
    }

    /// Changes a setting; `EINVAL` for what cannot be.
    pub(crate) fn set_knob(&self, family: Family, knob: TableKnob, value: i64) -> Result<(), Errno> {
        match family {
            Family::Messages => self.msg.with_settings(|table| knob.set(table, value)),
            Family::Semaphores => self.sem.with_settings(|table| knob.set(table, value)),
            Family::SharedMemory => self.shm.with_settings(|table| knob.set(table, value)),
        }
    }
}

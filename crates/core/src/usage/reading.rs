//! Kernel files that tell about a group, and the members that they give to its node. `value` has cgrouparch's keys, and
//! numbers of the same kind beside them; `events`, `operations` and `pressure` stand beside `value`.

mod text;

use crate::actual::Version;
use crate::ids::Controller;

/// What is measured of a group under one controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gauge {
    /// `{"usage": nanoseconds of CPU since the group was made}`.
    Cpu,
    /// `{"8:0": {"Read": bytes, "Write": bytes}}`.
    Io,
    /// `{"current": bytes}`.
    Memory,
    /// `{"current": processes and threads}`.
    Pids,
}

/// More than cgrouparch's values, at the price of one or more files for each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    Cpu,
    Memory,
    Events,
    Io,
    Pids,
    Pressure,
}

impl Choice {
    pub const ALL: [Self; 6] = [Self::Cpu, Self::Memory, Self::Events, Self::Io, Self::Pids, Self::Pressure];

    /// As `usage.collect` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Events => "events",
            Self::Io => "io",
            Self::Pids => "pids",
            Self::Pressure => "pressure",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// What is collected of each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collect {
    /// Everything that files say which are read anyway.
    lean: bool,
    choices: u8,
}

impl Collect {
    /// Cgrouparch's values alone.
    pub const PLAIN: Self = Self { lean: false, choices: 0 };
    /// No file more than for cgrouparch's values, but all that these say.
    pub const LEAN: Self = Self { lean: true, choices: 0 };

    #[must_use]
    pub fn with(self, choice: Choice) -> Self {
        Self { lean: true, choices: self.choices | 1 << choice as u8 }
    }

    pub fn all() -> Self {
        Choice::ALL.into_iter().fold(Self::LEAN, Self::with)
    }

    pub fn has(self, choice: Choice) -> bool {
        self.choices & 1 << choice as u8 != 0
    }
}

/// One kernel file of a group. Where both versions have one of a meaning, the names differ, the members do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    /// v1: the CPU time, and nothing else.
    CpuacctUsage,
    /// v1: user and system time, in hundredths of a second.
    CpuacctStat,
    /// v1's cpu.stat: throttling.
    Throttling,
    /// v2's cpu.stat, of which only the time counts.
    CpuTime,
    /// v2's cpu.stat, all of it.
    CpuStat,
    /// v1: bytes by disk.
    BlkioBytes,
    /// v1: operations by disk.
    BlkioOperations,
    /// v2's io.stat, of which only the bytes count.
    IoBytes,
    /// v2's io.stat: bytes and operations.
    IoStat,
    MemoryCurrent,
    MemoryPeak,
    /// v2: swap in use.
    MemorySwap,
    MemoryStat,
    /// v1: how often the limit was in the way.
    MemoryFailcnt,
    /// v2: memory.events.
    MemoryEvents,
    /// v1: processes killed for lack of memory.
    OomControl,
    PidsCurrent,
    PidsPeak,
    CpuPressure,
    MemoryPressure,
    IoPressure,
}

impl Gauge {
    /// What a controller's groups are measured by, if at all.
    pub fn of(controller: Controller) -> Option<Self> {
        match controller {
            Controller::Cpu | Controller::Cpuacct => Some(Self::Cpu),
            Controller::Io => Some(Self::Io),
            Controller::Memory => Some(Self::Memory),
            Controller::Pids => Some(Self::Pids),
            _ => None,
        }
    }

    /// The controller whose hierarchy has cgrouparch's value.
    pub fn controller(self) -> Controller {
        match self {
            Self::Cpu => Controller::Cpuacct,
            Self::Io => Controller::Io,
            Self::Memory => Controller::Memory,
            Self::Pids => Controller::Pids,
        }
    }

    /// The files to read, the one with cgrouparch's value first.
    pub fn readings(self, version: Version, collect: Collect) -> Vec<Reading> {
        use Reading as R;
        use Version::{V1, V2};
        let lean = collect.lean;
        let when = |choice, readings: &[Reading]| if collect.has(choice) { readings.to_vec() } else { Vec::new() };
        let pressure = |reading| if version == V2 { when(Choice::Pressure, &[reading]) } else { Vec::new() };
        let parts = match (self, version) {
            (Self::Cpu, V1) => [vec![R::CpuacctUsage], when(Choice::Cpu, &[R::CpuacctStat, R::Throttling]), vec![]],
            (Self::Cpu, V2) => [vec![if lean { R::CpuStat } else { R::CpuTime }], pressure(R::CpuPressure), vec![]],
            (Self::Io, V1) => [vec![R::BlkioBytes], when(Choice::Io, &[R::BlkioOperations]), vec![]],
            (Self::Io, V2) => [vec![if lean { R::IoStat } else { R::IoBytes }], pressure(R::IoPressure), vec![]],
            (Self::Memory, V1) => [
                vec![R::MemoryCurrent],
                when(Choice::Memory, &[R::MemoryPeak, R::MemoryStat, R::MemoryFailcnt]),
                when(Choice::Events, &[R::OomControl]),
            ],
            (Self::Memory, V2) => [
                vec![R::MemoryCurrent],
                when(Choice::Memory, &[R::MemoryPeak, R::MemorySwap, R::MemoryStat]),
                [when(Choice::Events, &[R::MemoryEvents]), pressure(R::MemoryPressure)].concat(),
            ],
            (Self::Pids, _) => [vec![R::PidsCurrent], when(Choice::Pids, &[R::PidsPeak]), vec![]],
        };
        parts.concat()
    }
}

impl Reading {
    /// The controller whose hierarchy has the file.
    pub fn controller(self) -> Controller {
        match self {
            Self::CpuacctUsage | Self::CpuacctStat | Self::CpuTime | Self::CpuStat => Controller::Cpuacct,
            Self::Throttling | Self::CpuPressure => Controller::Cpu,
            Self::BlkioBytes | Self::BlkioOperations | Self::IoBytes | Self::IoStat | Self::IoPressure => {
                Controller::Io
            }
            Self::PidsCurrent | Self::PidsPeak => Controller::Pids,
            _ => Controller::Memory,
        }
    }
}

#[cfg(test)]
mod tests;

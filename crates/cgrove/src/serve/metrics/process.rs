//! What Prometheus expects of every process.

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::gauge;

#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
            let cpu = ConstCounter::new(seconds(usage.user_time()) + seconds(usage.system_time()));
            let help = "User and system time";
            cpu.encode(encoder.encode_descriptor("cpu", help, Some(&Unit::Seconds), cpu.metric_type())?)?;
            for (name, help, count) in [
                ("voluntary_context_switches", "Waits", usage.voluntary_context_switches()),
                ("involuntary_context_switches", "Preemptions", usage.involuntary_context_switches()),
            ] {
                let count = ConstCounter::new(count.unsigned_abs());
                count.encode(encoder.encode_descriptor(name, help, None, count.metric_type())?)?;
            }
        }
        let page = rustix::param::page_size() as f64;
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut sizes = statm.split(' ').map(|pages| pages.parse::<f64>().unwrap_or(0.0) * page);
        let bytes = Some(&Unit::Bytes);
        gauge(&mut encoder, "virtual_memory", "Address space", bytes, sizes.next().unwrap_or(0.0))?;
        gauge(&mut encoder, "resident_memory", "Memory in use", bytes, sizes.next().unwrap_or(0.0))?;
        let count = |dir| std::fs::read_dir(dir).map_or(0, Iterator::count) as f64;
        gauge(&mut encoder, "open_fds", "Open descriptors", None, count("/proc/self/fd"))?;
        gauge(&mut encoder, "threads", "Threads", None, count("/proc/self/task"))?;
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        gauge(&mut encoder, "max_fds", "Most open descriptors", None, limit as f64)
    }
}

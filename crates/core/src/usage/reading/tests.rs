//! Kernel texts, and the JSON that they become.

use super::Reading as R;
use super::*;

/// What stands in a node: the value, and what is beside it.
fn node(version: Version, readings: &[(Reading, &str)]) -> String {
    let (mut value, mut beside) = (b"{".to_vec(), Vec::new());
    for (reading, text) in readings {
        reading.render(version, text.as_bytes(), &mut value, &mut beside);
    }
    let text = String::from_utf8([&value[..], b"}", &beside].concat()).unwrap();
    let whole = format!("{{\"value\":{text}}}");
    serde_json::from_str::<serde_json::Value>(&whole).unwrap_or_else(|e| panic!("{e}: {whole}"));
    text
}

fn v1(reading: Reading, text: &str) -> String {
    node(Version::V1, &[(reading, text)])
}

fn v2(reading: Reading, text: &str) -> String {
    node(Version::V2, &[(reading, text)])
}

#[test]
fn kernel_text_becomes_cgrouparchs_values() {
    assert_eq!(v1(R::CpuacctUsage, "12345\n"), r#"{"usage":12345}"#);
    assert_eq!(v1(R::MemoryCurrent, "0\n"), r#"{"current":0}"#);
    let io = "8:0 Read 5\n8:0 Write 6\n8:0 Sync 7\n8:0 Total 11\n8:16 Read 1\n8:16 Write 2\nTotal 14\n";
    assert_eq!(v1(R::BlkioBytes, io), r#"{"8:0":{"Read":5,"Write":6},"8:16":{"Read":1,"Write":2}}"#);
    assert_eq!(v1(R::BlkioBytes, "Total 0\n"), "{}");
    assert_eq!(v1(R::BlkioBytes, " Read 5\n8:0 Read 1"), r#"{"8:0":{"Read":1}}"#);
    for odd in ["", "x", "-1", "01", "1 2", "\"", "123456789012345678901"] {
        assert_eq!(v1(R::CpuacctUsage, odd), "{}", "{odd:?}");
    }
}

#[test]
fn v2_gives_the_same_values() {
    assert_eq!(v2(R::CpuTime, "usage_usec 12\nuser_usec 5\n"), r#"{"usage":12000}"#);
    assert_eq!(v2(R::CpuTime, "usage_usec 0\n"), r#"{"usage":0}"#);
    assert_eq!(v2(R::CpuTime, "user_usec 5\n"), "{}");
    assert_eq!(v2(R::MemoryCurrent, "4096\n"), r#"{"current":4096}"#);
    let io = "8:0 rbytes=5 wbytes=6 rios=1 wios=1 dbytes=0 dios=0\n253:1 \n8:16 rbytes=1 wbytes=2 rios=0 wios=0\n";
    assert_eq!(v2(R::IoBytes, io), r#"{"8:0":{"Read":5,"Write":6},"8:16":{"Read":1,"Write":2}}"#);
    assert_eq!(v2(R::IoBytes, "7:0 7:1 8:0 rbytes=5 wbytes=6\n"), r#"{"8:0":{"Read":5,"Write":6}}"#);
    assert_eq!((v2(R::IoBytes, ""), v2(R::IoBytes, "\"x rbytes=1 wbytes=2\n")), ("{}".into(), "{}".into()));
}

#[test]
fn more_stands_beside_them_alike_on_both_versions() {
    let stat =
        "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 7\nnr_bursts 0\n";
    let wanted = r#"{"usage":9000,"user":5000,"system":4000,"nr_periods":3,"nr_throttled":2,"throttled":7000}"#;
    assert_eq!(v2(R::CpuStat, stat), wanted);
    let one = [
        (R::CpuacctUsage, "9000\n"),
        (R::CpuacctStat, "user 1\nsystem 0\n"),
        (R::Throttling, "nr_periods 3\nnr_throttled 2\nthrottled_time 7000\n"),
    ];
    let wanted = r#"{"usage":9000,"user":10000000,"system":0,"nr_periods":3,"nr_throttled":2,"throttled":7000}"#;
    assert_eq!(node(Version::V1, &one), wanted);
    let wanted = r#"{"8:0":{"Read":5,"Write":6}},"operations":{"8:0":{"Read":1,"Write":2}}"#;
    assert_eq!(v2(R::IoStat, "8:0 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n"), wanted);
    let one = [(R::BlkioBytes, "8:0 Read 5\n8:0 Write 6\n"), (R::BlkioOperations, "8:0 Read 1\n8:0 Write 2\n")];
    assert_eq!(node(Version::V1, &one), wanted);
}

#[test]
fn memory_tells_what_it_is_made_of() {
    let two = [
        (R::MemoryCurrent, "30\n"),
        (R::MemoryPeak, "40\n"),
        (R::MemorySwap, "0\n"),
        (R::MemoryStat, "anon 10\nfile 20\nfile_mapped 7\nworkingset_refault_anon 3\nworkingset_refault_file 4\n"),
        (R::MemoryEvents, "low 0\nhigh 5\nmax 1\noom 2\noom_kill 3\noom_group_kill 9\n"),
    ];
    let wanted = r#"{"current":30,"peak":40,"swap":0,"anon":10,"file":20,"refaults":7},"events":{"low":0,"high":5,"max":1,"oom":2,"oom_kill":3}"#;
    assert_eq!(node(Version::V2, &two), wanted);
    let one = [
        (
            R::MemoryStat,
            "cache 1\nrss 1\ntotal_cache 20\ntotal_rss 10\ntotal_swap 0\ntotal_workingset_refault_file 7\n",
        ),
        (R::OomControl, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ];
    assert_eq!(node(Version::V1, &one), r#"{"file":20,"anon":10,"swap":0,"refaults":7},"events":{"oom_kill":3}"#);
    // Before Linux 4.13 nobody counted.
    assert_eq!(v1(R::OomControl, "oom_kill_disable 0\nunder_oom 0\n"), "{}");
}

#[test]
fn pressure_is_percent_and_microseconds() {
    let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    let wanted = r#"{},"pressure":{"some":{"avg10":1.50,"total":12},"full":{"avg10":0.00,"total":0}}"#;
    assert_eq!(v2(R::CpuPressure, text), wanted);
    for odd in ["some avg10=.5 total=1", "some avg10=1. total=1", "some avg10=01.5 total=1", "x avg10=1.5 total=1"] {
        assert_eq!(v2(R::IoPressure, odd), "{}", "{odd}");
    }
}

#[test]
fn what_is_read_anyway_is_free_and_the_rest_is_asked_for() {
    let files = |collect| -> usize {
        let gauges = [Gauge::Cpu, Gauge::Io, Gauge::Memory, Gauge::Pids];
        gauges.iter().map(|g| g.readings(Version::V2, collect).len()).sum()
    };
    assert_eq!((files(Collect::PLAIN), files(Collect::LEAN)), (4, 4));
    assert_eq!(files(Collect::LEAN.with(Choice::Pressure)), 7);
    assert_eq!(files(Collect::all()), 12);
    let cpu = Gauge::Cpu.readings(Version::V1, Collect::all());
    assert_eq!(cpu, [R::CpuacctUsage, R::CpuacctStat, R::Throttling]);
    assert_eq!(Choice::ALL.map(|c| Choice::parse(c.name())), Choice::ALL.map(Some));
}

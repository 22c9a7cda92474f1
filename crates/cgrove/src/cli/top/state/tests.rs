//! Sorting, filtering, folding, and looking back.

use super::*;
use serde_json::json;

pub(in crate::cli::top) fn slot(n: u64) -> Value {
    let group = |usage: u64| json!({ "value": { "usage": usage * 1_000_000 } });
    let clients =
        json!({ "value": { "usage": 900_000_000_u64 }, "sub_cgroup": { "vm-1": group(200 + n), "vm-2": group(700) } });
    json!({ "subscription": "slots", "slot": n, "value": {
        "cpu": { "value": { "usage": 1_400_000_000_u64 }, "sub_cgroup": { "clients": clients, "web": group(500) } },
        "memory": { "value": { "current": 5 << 20 }, "sub_cgroup": { "web": { "value": { "current": 3 << 20 } } } },
    } })
}

fn state() -> State {
    let mut state = State::new(Column::Cpu, false);
    (1..=5).for_each(|n| state.take(slot(n)));
    state
}

fn paths(state: &State) -> Vec<String> {
    state.rows().into_iter().map(|r| r.path).collect()
}

#[test]
fn the_tree_is_sorted_level_by_level_and_the_list_as_a_whole() {
    let mut s = state();
    assert_eq!(paths(&s), ["/", "/clients", "/clients/vm-2", "/clients/vm-1", "/web"]);
    s.sort = Column::Memory;
    assert_eq!(paths(&s), ["/", "/web", "/clients", "/clients/vm-1", "/clients/vm-2"]);
    (s.flat, s.sort) = (true, Column::Cpu);
    assert_eq!(paths(&s), ["/", "/clients", "/clients/vm-2", "/web", "/clients/vm-1"]);
    (s.sort, s.rising) = (Column::Name, false);
    assert_eq!(paths(&s)[0], "/web");
}

#[test]
fn a_filter_shows_what_leads_to_its_hits() {
    let mut s = state();
    s.selected = "/clients".into();
    s.fold(false);
    assert_eq!(paths(&s), ["/", "/clients", "/web"]);
    s.filter = "VM-1".into();
    assert_eq!(paths(&s), ["/", "/clients", "/clients/vm-1"]);
    s.flat = true;
    assert_eq!(paths(&s), ["/clients/vm-1"]);
}

#[test]
fn keys_for_moving_and_folding() {
    let mut s = state();
    s.go(3);
    assert_eq!(s.selected, "/clients/vm-1");
    s.fold(false);
    assert_eq!(s.selected, "/clients");
    s.fold(false);
    s.go(100);
    assert_eq!(s.selected, "/web");
    s.go(-100);
    s.fold(true);
    assert_eq!((s.selected.as_str(), s.rows().len()), ("/", 3));
}

#[test]
fn looking_back_stays_at_its_slot_until_it_comes_back_to_now() {
    let mut s = state();
    s.travel(2);
    assert_eq!(s.shown().unwrap().0, 3);
    s.take(slot(6));
    assert_eq!((s.shown().unwrap().0, s.paused), (3, true));
    s.travel(-100);
    s.take(slot(7));
    assert_eq!((s.shown().unwrap().0, s.paused), (7, false));
    s.travel(1000);
    assert_eq!(s.shown().unwrap().0, 1);
    assert_eq!(s.history("/clients/vm-1", Column::Cpu), [201]);
}

#[test]
fn the_past_comes_once_and_in_order() {
    let mut s = State::new(Column::Cpu, false);
    s.take(slot(9));
    let past: serde_json::Map<String, Value> = (5..=9).map(|n| (n.to_string(), slot(n)["value"].clone())).collect();
    let mut past = Value::Object(past);
    past["id"] = "past".into();
    s.take(past);
    assert_eq!((s.shown().unwrap().0, s.history("/web", Column::Cpu).len()), (9, 5));
}

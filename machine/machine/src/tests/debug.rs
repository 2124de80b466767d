//! A debugger at a machine whose CPU is played.

use super::*;
use crate::{CpuStop, DebugEvent, DebugPort, Orders, Resume, StopCause};
use motu_hv::DebugStop;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

/// A machine that runs on a thread of its own, and its debugger.
struct Debugged {
    port: DebugPort,
    told: Receiver<DebugEvent>,
    handle: crate::MachineHandle,
    thread: JoinHandle<Outcome>,
}

/// `attached` before the machine runs.
fn debugged(
    (waits, attached): (bool, bool),
    script: impl Fn(&Guest<'_>, usize) -> Exit + Send + Sync + 'static,
) -> Debugged {
    let machine = machine(MachineConfig { waits_for_debugger: waits, ..config(Sheet::default()) }, script);
    let (port, handle) = (machine.debug_port(), machine.handle());
    let (tell, told) = mpsc::channel();
    if attached {
        port.attach(told_by(tell));
    }
    let thread = std::thread::spawn(move || machine.run().unwrap().outcome);
    Debugged { port, told, handle, thread }
}

impl Debugged {
    fn next(&self) -> DebugEvent {
        self.told.recv().unwrap()
    }

    fn end(self) -> Outcome {
        self.thread.join().unwrap()
    }

    fn runs_so_far(&self) -> u64 {
        self.port.look(0, |vcpu, _| vcpu.stats().instructions).unwrap()
    }
}

fn told_by(tell: mpsc::Sender<DebugEvent>) -> crate::Told {
    Box::new(move |event| {
        let _ = tell.send(event);
    })
}

fn stopped(stop: DebugStop) -> DebugEvent {
    DebugEvent::Paused(Some(CpuStop { cpu: 0, cause: StopCause::Debug(stop) }))
}

#[test]
fn an_attached_debugger_pauses_looks_and_lets_go() {
    let debugged = debugged((false, true), |guest, _| guest.until_kicked());
    assert_eq!(debugged.next(), DebugEvent::Paused(None));
    // It was told that the machine stands still, and would not take it a second time.
    debugged.port.look(0, |vcpu, now| vcpu.go_on(now)).unwrap();
    debugged.port.look(0, |vcpu, now| vcpu.stand_still(now)).unwrap();
    let rip = debugged.port.look(0, |vcpu, now| vcpu.save(now).rip);
    assert_eq!(rip, Some(MIB));
    assert!(debugged.port.look(1, |_, _| ()).is_none(), "there is one CPU");
    debugged.port.resume(Orders::default());
    assert!(debugged.port.look(0, |_, _| ()).is_none(), "it runs");
    debugged.port.pause();
    assert_eq!(debugged.next(), DebugEvent::Paused(None));
    // It is paused already, which is told once.
    debugged.port.pause();
    debugged.port.resume(Orders::default());
    debugged.port.pause();
    assert_eq!(debugged.next(), DebugEvent::Paused(None));
    // Nobody runs: it is as if it had been paused again.
    debugged.port.resume(Orders { cpus: vec![Resume::Stay], ..Orders::default() });
    assert_eq!(debugged.next(), DebugEvent::Paused(None));
    debugged.port.detach();
    debugged.handle.stop();
    assert!(matches!(debugged.end(), Outcome::Stopped));
}

#[test]
fn a_machine_that_waits_runs_nothing_before_it_is_told_to() {
    let debugged = debugged((true, false), |guest, run| if run < 2 { guest.until_kicked() } else { guest.power_off() });
    assert_eq!(debugged.runs_so_far(), 0);
    let (tell, told) = mpsc::channel();
    debugged.port.attach(told_by(tell));
    assert_eq!(told.recv(), Ok(DebugEvent::Paused(None)));
    assert_eq!(debugged.runs_so_far(), 0);
    for runs in [1, 2] {
        debugged.port.resume(Orders::default());
        debugged.port.pause();
        assert_eq!(told.recv(), Ok(DebugEvent::Paused(None)));
        assert!(debugged.runs_so_far() <= runs);
    }
    debugged.port.resume(Orders::default());
    debugged.handle.stop();
    assert_eq!(told.recv(), Ok(DebugEvent::Ended));
    debugged.end();
}

#[test]
fn a_cpu_that_stops_pauses_the_machine_and_its_clock() {
    let watched = motu_hv::Watchpoint { linear: 1, bytes: 2, kind: motu_hv::WatchKind::Read };
    let stops = [DebugStop::Breakpoint, DebugStop::Step, DebugStop::Watchpoint(watched)];
    let debugged = debugged((true, true), move |guest, run| match stops.get(run) {
        Some(&stop) => Exit::Debug(stop),
        None => guest.power_off(),
    });
    assert_eq!(debugged.next(), DebugEvent::Paused(None));
    for stop in stops {
        debugged.port.resume(Orders { cpus: vec![Resume::Step], ..Orders::default() });
        assert_eq!(debugged.next(), stopped(stop));
        let [before, after] = [0; 2].map(|_| debugged.port.look(0, |_, now| now));
        assert_eq!(before, after);
    }
    debugged.port.resume(Orders::default());
    assert_eq!(debugged.next(), DebugEvent::Ended);
    assert!(matches!(debugged.end(), Outcome::PoweredOff));
}

#[test]
fn a_cpu_that_shuts_down_pauses_the_machine_while_there_is_a_debugger() {
    let debugged = debugged((true, true), |_, _| Exit::Shutdown);
    let shutdown = DebugEvent::Paused(Some(CpuStop { cpu: 0, cause: StopCause::Shutdown }));
    assert_eq!(debugged.next(), DebugEvent::Paused(None));
    for _ in 0..2 {
        debugged.port.resume(Orders::default());
        assert_eq!(debugged.next(), shutdown);
    }
    debugged.port.detach();
    assert!(matches!(debugged.end(), Outcome::Crashed(_)));
}

#[test]
fn a_reset_leaves_a_paused_machine_paused() {
    let debugged = debugged((true, true), |guest, _| guest.power_off());
    assert_eq!(debugged.next(), DebugEvent::Paused(None));
    debugged.port.look(0, |vcpu, now| vcpu.restore(&CpuState { rip: 7, ..CpuState::default() }, now));
    debugged.port.reset();
    assert_eq!(debugged.port.look(0, |vcpu, now| vcpu.save(now).rip), Some(MIB));
    debugged.port.resume(Orders::default());
    assert_eq!(debugged.next(), DebugEvent::Ended);
    assert!(matches!(debugged.end(), Outcome::PoweredOff));
}

#[test]
fn a_pause_is_not_lost_where_a_reset_comes_first() {
    let (tell, resets) = mpsc::channel();
    let debugged = debugged((true, true), move |guest, _| {
        guest.out8(0x64, 0xfe);
        let _ = tell.send(());
        guest.until_kicked()
    });
    assert_eq!(debugged.next(), DebugEvent::Paused(None));
    for _ in 0..50 {
        debugged.port.resume(Orders::default());
        resets.recv().unwrap();
        debugged.port.pause();
        assert_eq!(debugged.next(), DebugEvent::Paused(None));
    }
    debugged.handle.stop();
    debugged.end();
}

#[test]
fn a_debugger_that_comes_too_late_is_told_nothing() {
    let machine = machine(config(Sheet::default()), |guest, _| guest.power_off());
    let port = machine.debug_port();
    machine.run().unwrap();
    let (tell, told) = mpsc::channel();
    port.attach(told_by(tell));
    assert!(told.recv().is_err());
    assert!(port.look(0, |_, _| ()).is_none());
}

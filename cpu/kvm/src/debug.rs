//! The host's debugger at a vCPU (API, 4.87 KVM_SET_GUEST_DEBUG).
//!
//! The kernel puts the host's breakpoints into the debug registers instead of the guest's while they are asked for: there are
//! four, for breakpoints and watched data together, and guest memory stays as it is. What the guest has in its own debug
//! registers is kept, and does not hit meanwhile.

use crate::host::failed;
use crate::vcpu::KvmVcpu;
use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_debug_exit_arch,
    kvm_guest_debug, kvm_guest_debug_arch,
};
use motu_hv::{DebugStop, Debugging, HvError, WatchKind, Watchpoint};

/// Debug registers for addresses (SDM vol. 3, 17.2.1).
const REGISTERS: usize = 4;
/// DR6.BS.
const STEPPED: u64 = 1 << 14;
/// DR7: exact breakpoints, which processors are told for the older ones' sake (SDM vol. 3, 17.2.4).
const EXACT: u64 = 0x300;

/// What one debug register is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Breakpoint(u64),
    /// A piece of it: an aligned power of two of bytes, at most 8.
    Watched {
        linear: u64,
        bytes: u64,
        of: Watchpoint,
    },
}

/// What the debugger asks for.
#[derive(Debug, Default)]
pub struct Debugger {
    attached: bool,
    points: Vec<Point>,
    pub step: bool,
}

/// The aligned pieces of what is watched.
fn pieces(watched: Watchpoint) -> impl Iterator<Item = Point> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = watched.bytes.checked_sub(done).filter(|&left| left > 0)?;
        let linear = watched.linear.wrapping_add(done);
        let bytes = [8, 4, 2, 1].into_iter().find(|&bytes| bytes <= left && linear.is_multiple_of(bytes))?;
        done += bytes;
        Some(Point::Watched { linear, bytes, of: watched })
    })
}

impl Debugger {
    /// # Errors
    /// There are not as many debug registers, or data cannot be watched (`watches`).
    fn new(debugging: Option<&Debugging>, watches: bool) -> Result<Self, HvError> {
        let Some(debugging) = debugging else { return Ok(Self::default()) };
        if !watches && !debugging.watchpoints.is_empty() {
            let limit = "no watched data, as no hardware is behind this KVM".to_owned();
            return Err(HvError::Debugging { engine: "kvm", limit });
        }
        let breakpoints = debugging.breakpoints.iter().map(|&at| Point::Breakpoint(at));
        let watched = debugging.watchpoints.iter().flat_map(|&watched| pieces(watched));
        let points: Vec<_> = breakpoints.chain(watched).take(REGISTERS + 1).collect();
        if points.len() > REGISTERS {
            let limit = format!("{REGISTERS} breakpoints and aligned pieces of watched data at once");
            return Err(HvError::Debugging { engine: "kvm", limit });
        }
        Ok(Self { attached: true, points, step: debugging.step })
    }

    fn request(&self, block_interrupts: bool) -> kvm_guest_debug {
        let mut debugreg = [0; 8];
        debugreg[7] = EXACT;
        for (n, point) in self.points.iter().enumerate() {
            let (linear, field) = match *point {
                Point::Breakpoint(at) => (at, 0),
                Point::Watched { linear, bytes, of } => {
                    // No register tells reads from writes.
                    let kind = if of.kind == WatchKind::Write { 1 } else { 3 };
                    let length = match bytes {
                        1 => 0,
                        2 => 1,
                        8 => 2,
                        _ => 3,
                    };
                    (linear, length << 2 | kind)
                }
            };
            debugreg[n] = linear;
            debugreg[7] |= 2 << (2 * n) | field << (16 + 4 * n);
        }
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let control = flag(self.attached, KVM_GUESTDBG_ENABLE)
            | flag(!self.points.is_empty(), KVM_GUESTDBG_USE_HW_BP)
            | flag(self.step, KVM_GUESTDBG_SINGLESTEP)
            | flag(self.step && block_interrupts, KVM_GUESTDBG_BLOCKIRQ);
        kvm_guest_debug { control, pad: 0, arch: kvm_guest_debug_arch { debugreg } }
    }

    /// Why the kernel stopped. A step may end where something else has come, too.
    fn stop(&self, exit: &kvm_debug_exit_arch) -> DebugStop {
        let hit = self.points.iter().enumerate().find(|(n, _)| exit.dr6 & 1 << n != 0).map(|(_, point)| *point);
        match hit {
            Some(Point::Watched { of, .. }) => DebugStop::Watchpoint(of),
            _ if exit.dr6 & STEPPED != 0 => DebugStop::Step,
            _ => DebugStop::Breakpoint,
        }
    }
}

impl KvmVcpu {
    pub(crate) fn debug(&mut self, debugging: Option<&Debugging>) -> Result<(), HvError> {
        let debugger = Debugger::new(debugging, self.setup.watches)?;
        self.ask(&debugger).map_err(failed("asking KVM for breakpoints"))?;
        self.debugger = debugger;
        Ok(())
    }

    fn ask(&self, debugger: &Debugger) -> Result<(), kvm_ioctls::Error> {
        // Kernels before 5.15 cannot hold interrupts off.
        let asked = self.fd.set_guest_debug(&debugger.request(true));
        asked.or_else(|_| self.fd.set_guest_debug(&debugger.request(false)))
    }

    /// The kernel has stopped for the debugger. A step is for once.
    pub(crate) fn debug_stop(&mut self, exit: &kvm_debug_exit_arch) -> Result<DebugStop, kvm_ioctls::Error> {
        let stop = self.debugger.stop(exit);
        if std::mem::take(&mut self.debugger.step) {
            self.ask(&self.debugger)?;
        }
        Ok(stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(linear: u64, bytes: u64, kind: WatchKind) -> Watchpoint {
        Watchpoint { linear, bytes, kind }
    }

    #[test]
    fn debug_registers_are_as_the_manual_has_them() {
        let debugging = Debugging {
            breakpoints: vec![0xffff_ffff_8100_0000],
            watchpoints: vec![watched(0x1000, 8, WatchKind::Write), watched(0x2004, 6, WatchKind::Read)],
            step: true,
        };
        let request = Debugger::new(Some(&debugging), true).unwrap().request(true);
        assert_eq!(request.arch.debugreg[..4], [0xffff_ffff_8100_0000, 0x1000, 0x2004, 0x2008]);
        // Execute, 1 byte; write, 8 bytes; access, 4 bytes; access, 2 bytes.
        assert_eq!(request.arch.debugreg[7], 0x7f90_03aa);
        assert_eq!(request.control, 1 | 2 | 1 << 17 | 1 << 20);
        assert_eq!(Debugger::default().request(true).control, 0);
    }

    #[test]
    fn more_than_four_are_refused() {
        let five = Debugging { breakpoints: vec![1, 2, 3, 4, 5], ..Debugging::default() };
        assert!(Debugger::new(Some(&five), true).unwrap_err().to_string().contains('4'));
        let odd = Debugging { watchpoints: vec![watched(1, u64::MAX, WatchKind::Access)], ..Debugging::default() };
        assert!(Debugger::new(Some(&odd), true).is_err());
        let one = Debugging { watchpoints: vec![watched(1, 1, WatchKind::Access)], ..Debugging::default() };
        assert!(Debugger::new(Some(&one), true).is_ok() && Debugger::new(Some(&one), false).is_err());
    }

    #[test]
    fn a_stop_is_told_by_dr6() {
        let data = watched(0x1000, 8, WatchKind::Write);
        let debugging = Debugging { breakpoints: vec![0x7c00], watchpoints: vec![data], step: true };
        let debugger = Debugger::new(Some(&debugging), true).unwrap();
        let stop = |dr6| debugger.stop(&kvm_debug_exit_arch { dr6, ..Default::default() });
        assert_eq!(stop(1), DebugStop::Breakpoint);
        assert_eq!(stop(2), DebugStop::Watchpoint(data));
        assert_eq!(stop(STEPPED), DebugStop::Step);
        assert_eq!(stop(STEPPED | 2), DebugStop::Watchpoint(data));
    }
}

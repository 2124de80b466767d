//! Port I/O and its protection (Intel SDM vol. 1, 19.5).

use super::operand::Source;
use super::width::Width;
use crate::cpu::{Cpu, Done, Faulting, Flow, slot};
use crate::decode::Op;

impl Cpu {
    /// #GP(0) unless CPL, IOPL or the TSS's permission map allow `bytes` ports from `port`.
    pub fn check_port(&mut self, port: u16, bytes: u64) -> Faulting<()> {
        let free = if self.virtual_8086() { false } else { !self.protected_mode() || self.cpl <= self.iopl() };
        if free {
            return Ok(());
        }
        if self.tr.kind() & 0b1101 != 0b1001 || self.tr.limit < 0x67 {
            return self.general_protection(0);
        }
        let map = u64::from(u16::from_le_bytes(self.read_system(self.tr.base.wrapping_add(0x66))?));
        let at = map + u64::from(port / 8);
        if at + 1 > u64::from(self.tr.limit) {
            return self.general_protection(0);
        }
        let bits = u16::from_le_bytes(self.read_system(self.tr.base.wrapping_add(at))?) >> (port % 8);
        if bits & ((1 << bytes) - 1) != 0 { self.general_protection(0) } else { Ok(()) }
    }

    pub fn port_in<W: Width>(&mut self, port: u16) -> W {
        self.stats.port_accesses += 1;
        self.watch_port(port, W::BYTES);
        let mut data = [0; 8];
        self.bus().io_read(port, &mut data[..W::BYTES as usize]);
        W::from_le(&data)
    }

    pub fn port_out<W: Width>(&mut self, port: u16, value: W) {
        self.stats.port_accesses += 1;
        self.watch_port(port, W::BYTES);
        self.bus().io_write(port, &value.to_u64().to_le_bytes()[..W::BYTES as usize]);
    }
}

/// The port in DX.
pub enum Dx {}

impl Source for Dx {
    fn get<W: Width>(cpu: &mut Cpu, _: &Op) -> Faulting<W> {
        Ok(W::from_u64(cpu.gpr(slot::RDX)))
    }
}

/// IN: `P` is where the port number stands.
pub fn input<W: Width, P: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let port = P::get::<u16>(cpu, op)?;
    cpu.check_port(port, W::BYTES)?;
    let value = cpu.port_in::<W>(port);
    cpu.set_register(0, value);
    Ok(Flow::Stop)
}

/// OUT.
pub fn output<W: Width, P: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let port = P::get::<u16>(cpu, op)?;
    cpu.check_port(port, W::BYTES)?;
    cpu.port_out(port, cpu.register::<W>(0));
    Ok(Flow::Stop)
}

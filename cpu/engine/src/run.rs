//! Running the operations of a block.

use crate::cpu::{Cpu, Flow, slot};
use crate::decode::Block;
use crate::exec::debug::dr6;
use motu_x86::flags::rflags;

impl Cpu {
    /// Runs operations of a block that begins at `start`, from the one of number `first` on: `limit` of them at most, until
    /// one goes elsewhere or faults. RIP is where the program goes on then. True if it is a repeated instruction of which
    /// a piece has run.
    #[inline(always)]
    pub fn run_ops(&mut self, block: &Block, start: u64, first: usize, limit: usize) -> bool {
        let step = self.system_flags & rflags::TF != 0;
        self.system_flags &= !rflags::RF;
        self.no_step = false;
        self.limit = block.ops.len().min(first + if step { 1 } else { limit.min(block.ops.len()) });
        self.rip = start;
        self.set_gpr(slot::BLOCK, start);

        let mut done = first;
        let mut again = false;
        let next = loop {
            let Some(op) = block.ops.get(done) else { break start.wrapping_add(block.len.into()) };
            let end = || op.end(start);
            match (op.run)(self, op) {
                Ok(Flow::Next) => {
                    done += 1;
                    if done >= self.limit {
                        break end();
                    }
                }
                Ok(Flow::Jump) => {
                    done += 1;
                    break self.rip;
                }
                Ok(Flow::Stop) => {
                    done += 1;
                    break end();
                }
                Ok(Flow::Again) => {
                    // The images that interrupts and traps between two iterations push have RF (SDM vol. 3,
                    // 17.3.1.1); it is cleared when the instruction goes on.
                    self.system_flags |= rflags::RF;
                    again = true;
                    break op.rip(self);
                }
                Err(_) => {
                    let rip = op.rip(self);
                    self.stats.instructions += (done - first) as u64;
                    self.deliver_exception(rip);
                    return false;
                }
            }
        };
        self.rip = next & self.ip_mask();
        self.stats.instructions += (done - first) as u64;
        if step && (done > first || again) && !self.no_step {
            // The trap behind an instruction that began with TF set (SDM vol. 3, 17.3.1.4).
            self.note_debug_trap(dr6::BS);
        }
        again
    }
}

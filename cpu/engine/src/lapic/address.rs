//! What a local APIC answers to (SDM vol. 3, 11.6.2 and 11.12.10).

use super::Destination;

/// What decides whether a message is for an APIC, beside the number of its processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// IA32_APIC_BASE bit 11.
    pub enabled: bool,
    pub x2apic: bool,
    /// Enabled by software as well: takes part in lowest-priority delivery.
    pub accepts: bool,
    /// The LDR as software reads it.
    pub logical: u32,
    /// The DFR's upper four bits.
    pub model: u8,
}

/// Models of logical destinations in xAPIC mode.
const FLAT: u8 = 0xf;
const CLUSTER: u8 = 0;

impl Address {
    /// Whether processor `id`, whose address this is, takes a message to `destination`.
    pub fn answers_to(&self, id: u32, destination: Destination) -> bool {
        self.enabled
            && match destination {
                Destination::Physical(to) => to == id,
                Destination::Logical(address) => self.is_logical_destination(address),
                Destination::All => true,
                Destination::AllBut(sender) => sender != id,
            }
    }

    fn is_logical_destination(&self, address: u32) -> bool {
        let own = self.logical;
        if self.x2apic {
            return address == u32::MAX || (address >> 16 == own >> 16 && address & own & 0xffff != 0);
        }
        let own = own >> 24;
        match self.model {
            FLAT => address & own & 0xff != 0,
            CLUSTER => address & 0xff == 0xff || (address >> 4 & 0xf == own >> 4 && address & own & 0xf != 0),
            _ => false,
        }
    }

    /// In one word.
    pub fn pack(self) -> u64 {
        u64::from(self.logical)
            | u64::from(self.model & 0xf) << 32
            | u64::from(self.enabled) << 36
            | u64::from(self.x2apic) << 37
            | u64::from(self.accepts) << 38
    }

    pub fn unpack(word: u64) -> Self {
        let bit = |n: u32| word >> n & 1 != 0;
        Self {
            logical: word as u32,
            model: (word >> 32 & 0xf) as u8,
            enabled: bit(36),
            x2apic: bit(37),
            accepts: bit(38),
        }
    }
}

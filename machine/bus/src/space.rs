//! An address space: which device answers where.

use crate::{Device, Effect, lock};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

/// Why a device could not be mapped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MapError {
    #[error("{start:#x}..={last:#x} is empty or overlaps {other_start:#x}..={other_last:#x}")]
    Overlap { start: u64, last: u64, other_start: u64, other_last: u64 },
}

struct Mapping {
    last: u64,
    device: Arc<Mutex<dyn Device>>,
}

/// Ports or memory-mapped registers; mappings never overlap. May be changed while in use (PCI BARs).
#[derive(Default)]
pub struct AddressSpace {
    mappings: RwLock<BTreeMap<u64, Mapping>>,
}

impl AddressSpace {
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps `device` at `start` for `len` units.
    ///
    /// # Errors
    /// The range is empty, wraps, or overlaps one that is mapped.
    pub fn map(&self, start: u64, len: u64, device: Arc<Mutex<dyn Device>>) -> Result<(), MapError> {
        let mut mappings = self.mappings.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let empty = MapError::Overlap { start, last: start, other_start: start, other_last: start };
        let last = len.checked_sub(1).and_then(|l| start.checked_add(l)).ok_or(empty)?;
        if let Some((&other_start, other)) = mappings.range(..=last).next_back()
            && other.last >= start
        {
            return Err(MapError::Overlap { start, last, other_start, other_last: other.last });
        }
        mappings.insert(start, Mapping { last, device });
        Ok(())
    }

    /// Takes away what was mapped exactly at `start`; false if nothing was.
    pub fn unmap(&self, start: u64) -> bool {
        self.mappings.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&start).is_some()
    }

    /// Reads; all ones where nothing answers.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Effect {
        match self.find(address) {
            Some((device, offset)) => lock(&device).read(offset, data),
            None => {
                data.fill(0xff);
                Effect::None
            }
        }
    }

    /// Writes; ignored where nothing answers.
    pub fn write(&self, address: u64, data: &[u8]) -> Effect {
        match self.find(address) {
            Some((device, offset)) => lock(&device).write(offset, data),
            None => Effect::None,
        }
    }

    fn find(&self, address: u64) -> Option<(Arc<Mutex<dyn Device>>, u64)> {
        let mappings = self.mappings.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (start, mapping) = mappings.range(..=address).next_back()?;
        (mapping.last >= address).then(|| (Arc::clone(&mapping.device), address - start))
    }
}

impl std::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressSpace").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared;

    struct Echo(u64);
    impl Device for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
            data.fill((self.0 + offset) as u8);
            Effect::None
        }
        fn write(&mut self, offset: u64, _: &[u8]) -> Effect {
            self.0 = offset;
            Effect::Reset
        }
        fn reset(&mut self) {}
    }

    #[test]
    fn the_device_that_is_mapped_answers_with_its_own_offset() {
        let space = AddressSpace::new();
        space.map(0x60, 5, shared(Echo(0))).unwrap();
        let mut byte = [0];
        space.read(0x64, &mut byte);
        assert_eq!(byte, [4]);
        assert_eq!(space.write(0x62, &[0]), Effect::Reset);
        space.read(0x65, &mut byte);
        assert_eq!(byte, [0xff]);
    }

    #[test]
    fn overlaps_and_empty_ranges_are_refused() {
        let space = AddressSpace::new();
        space.map(0x10, 0x10, shared(Echo(0))).unwrap();
        assert!(space.map(0x1f, 1, shared(Echo(0))).is_err());
        assert!(space.map(0x08, 9, shared(Echo(0))).is_err());
        assert!(space.map(0x30, 0, shared(Echo(0))).is_err());
        assert!(space.map(u64::MAX, 2, shared(Echo(0))).is_err());
        assert!(space.map(0x20, 1, shared(Echo(0))).is_ok());
        assert!(space.unmap(0x10));
        assert!(space.map(0x1f, 1, shared(Echo(0))).is_ok());
    }
}

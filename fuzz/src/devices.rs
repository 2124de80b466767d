//! The board's devices behind ports and the I/O APIC: accesses, time, and what the host does to them.

use crate::registers::{ManualClock, Nowhere, access, pass_time, steps};
use arbitrary::Arbitrary;
use motu_bus::{Clock, Device, IrqSink, shared};
use motu_devices::acpi_pm::{self, AcpiPm};
use motu_devices::debug_exit::DebugExit;
use motu_devices::i8042::I8042;
use motu_devices::ioapic::IoApic;
use motu_devices::pic::Pic;
use motu_devices::pit::Pit;
use motu_devices::ports::{DebugPort, Ignored, Window};
use motu_devices::rtc::Rtc;
use motu_devices::uart::Uart;
use std::sync::Arc;

fn clock() -> (Arc<ManualClock>, Arc<dyn Clock>) {
    let clock = Arc::new(ManualClock::default());
    (Arc::clone(&clock), clock)
}

pub fn pit(bytes: &[u8]) {
    let (clock, shared) = clock();
    let mut pit = Pit::new(shared, Nowhere::line());
    steps(bytes, |operation, input| match operation % 8 {
        0..4 => access(&mut pit, 3, input),
        4 => access(&mut pit, Pit::SPEAKER as u16 + 1, input),
        5 if operation == 5 => {
            pit.reset();
            Ok(())
        }
        _ => pass_time(&mut pit, &clock, input),
    });
}

pub fn rtc(bytes: &[u8]) {
    let (clock, shared) = clock();
    let start = bytes.first_chunk().map_or(0, |bytes| i64::from(i32::from_le_bytes(*bytes)));
    let mut rtc = Rtc::new(shared, Nowhere::line(), start << (start & 31));
    steps(bytes, |operation, input| match operation % 4 {
        0 | 1 => access(&mut rtc, 1, input),
        2 if operation == 2 => {
            rtc.reset();
            Ok(())
        }
        2 => {
            // Selects a register and writes it, which blind accesses seldom do.
            let [index, value] = <[u8; 2]>::arbitrary(input)?;
            rtc.write(0, &[index % 14]);
            rtc.write(1, &[value]);
            Ok(())
        }
        _ => pass_time(&mut rtc, &clock, input),
    });
}

pub fn acpi_pm(bytes: &[u8]) {
    let (clock, shared) = clock();
    let mut pm = AcpiPm::new(shared, Nowhere::line());
    steps(bytes, |operation, input| {
        match operation % 8 {
            0..5 => access(&mut pm, acpi_pm::ports::LEN, input)?,
            5 => pm.press_power_button(),
            6 if operation == 6 => pm.reset(),
            _ => pass_time(&mut pm, &clock, input)?,
        }
        Ok(())
    });
}

pub fn uart(bytes: &[u8]) {
    let mut uart = Uart::new(Nowhere::line(), Box::new(|_| {}));
    uart.on_drained(Box::new(|| {}));
    steps(bytes, |operation, input| {
        match operation % 8 {
            0..6 => access(&mut uart, 8, input)?,
            6 if operation == 6 => uart.reset(),
            _ => {
                let len = usize::from(u16::arbitrary(input)?) % (2 * Uart::QUEUE_BYTES);
                let space = uart.space();
                assert_eq!(uart.input(&vec![operation; len]), len.min(space));
                assert!(uart.space() <= Uart::QUEUE_BYTES);
            }
        }
        Ok(())
    });
}

pub fn i8042(bytes: &[u8]) {
    let mut controller = I8042::new(Nowhere::line());
    steps(bytes, |operation, input| {
        match operation % 8 {
            0..5 => access(&mut controller, 5, input)?,
            5 => {
                let [port, value] = <[u8; 2]>::arbitrary(input)?;
                controller.write(u64::from(port & 1) * 4, &[value]);
            }
            6 if operation == 6 => controller.reset(),
            _ => {
                let codes = <[u8; 3]>::arbitrary(input)?;
                controller.key(codes.get(..usize::from(operation >> 6)).unwrap_or_default());
            }
        }
        Ok(())
    });
}

pub fn pic(bytes: &[u8]) {
    let pic = Arc::new(Pic::new(Box::new(|_| {})));
    let mut ports: [Box<dyn Device>; 3] =
        [Box::new(pic.first_ports()), Box::new(pic.second_ports()), Box::new(pic.elcr_ports())];
    steps(bytes, |operation, input| {
        match operation % 8 {
            chip @ 0..3 => {
                if let Some(chip) = ports.get_mut(usize::from(chip)) {
                    access(&mut **chip, 1, input)?;
                }
            }
            3 | 4 => pic.set(u32::from(operation >> 3), operation & 1 != 0),
            5 => _ = pic.acknowledge(),
            6 if operation == 6 => ports.iter_mut().for_each(|chip| chip.reset()),
            _ => {
                // An initialisation in order: ICW1 to ICW4 (8259A data sheet).
                let words = <[u8; 4]>::arbitrary(input)?;
                if let Some(chip) = ports.get_mut(usize::from(operation >> 7)) {
                    for (word, port) in words.into_iter().zip([0, 1, 1, 1]) {
                        chip.write(port, &[if port == 0 { word | 0x10 } else { word }]);
                    }
                }
            }
        }
        Ok(())
    });
}

pub fn ioapic(bytes: &[u8]) {
    let io_apic = Arc::new(IoApic::new(Arc::new(Nowhere)));
    let mut registers = io_apic.mmio();
    steps(bytes, |operation, input| {
        match operation % 8 {
            0..2 => access(&mut registers, IoApic::SIZE as u16, input)?,
            2..5 => {
                let (index, value) = (u8::arbitrary(input)?, u32::arbitrary(input)?);
                registers.write(0, &[index % 0x42]);
                registers.write(0x10, &value.to_le_bytes());
                registers.read(0x10, &mut [0; 4]);
            }
            5 => io_apic.set(u32::from(operation >> 3), u8::arbitrary(input)? & 1 != 0),
            6 if operation == 6 => registers.reset(),
            _ => io_apic.end_of_interrupt(u8::arbitrary(input)?),
        }
        Ok(())
    });
}

/// Ports with next to nothing behind them.
pub fn ports(bytes: &[u8]) {
    let window = Window::new(shared(DebugPort::new()), 4);
    let mut ports: [Box<dyn Device>; 4] =
        [Box::new(DebugExit::new()), Box::new(DebugPort::new()), Box::new(Ignored), Box::new(window)];
    steps(bytes, |operation, input| {
        let Some(port) = ports.get_mut(usize::from(operation & 3)) else { return Ok(()) };
        if operation == 4 {
            port.reset();
        }
        access(&mut **port, 0xffff, input)
    });
}

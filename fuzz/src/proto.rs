//! The agent's protocol, as the host reads what comes from the guest.

use motu_proto::{Decoder, GuestMessage, HostMessage, Message, ReceiveWindow, SendWindow};

/// The first byte says in pieces of what length the rest arrives.
pub fn run(bytes: &[u8]) {
    let Some((&piece, stream)) = bytes.split_first() else { return };
    let piece = usize::from(piece) + 1;
    decode::<GuestMessage>(stream, piece);
    decode::<HostMessage>(stream, piece);
}

/// What is decoded is encoded to the same, and a broken stream stays broken.
fn decode<M: Message + PartialEq + std::fmt::Debug>(stream: &[u8], piece: usize) {
    let mut decoder = Decoder::<M>::new();
    let (mut sent, mut received) = (SendWindow::default(), ReceiveWindow::default());
    for bytes in stream.chunks(piece) {
        decoder.feed(bytes);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => again(message),
                Ok(None) => break,
                Err(error) => {
                    decoder.feed(bytes);
                    assert_eq!(decoder.next_message(), Err(error));
                    return;
                }
            }
        }
        let value = bytes.first_chunk().map_or(u32::from(bytes.len() as u8), |bytes| u32::from_le_bytes(*bytes));
        sent.sent(bytes.len());
        _ = sent.credit(value);
        _ = received.received(value as usize);
        _ = received.passed_on(bytes.len());
    }
}

fn again<M: Message + PartialEq + std::fmt::Debug>(message: M) {
    let mut frame = Vec::new();
    // A text that was no UTF-8 may have grown beyond a frame when it was repaired.
    if message.encode(&mut frame).is_ok() {
        let mut decoder = Decoder::<M>::new();
        decoder.feed(&frame);
        assert_eq!(decoder.next_message(), Ok(Some(message)));
    }
}

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn frames<M: Message>(messages: &[M]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        message.encode(&mut out).expect("the test's messages fit");
    }
    out
}

fn size() -> impl Strategy<Value = TermSize> {
    (any::<u16>(), any::<u16>()).prop_map(|(rows, cols)| TermSize { rows, cols })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn exec() -> impl Strategy<Value = Exec> {
    (
        any::<u32>(),
        vec(bytes(), 0..5),
        vec((bytes(), bytes()), 0..5),
        (proptest::option::of(bytes()), proptest::option::of(bytes())),
        proptest::option::of(size()),
        any::<(bool, bool)>(),
    )
        .prop_map(|(id, argv, env, (cwd, user), tty, (stdin, builtin))| Exec {
            id,
            argv,
            env,
            cwd,
            user,
            tty,
            stdin,
            builtin,
        })
}

fn host_message() -> impl Strategy<Value = HostMessage> {
    prop_oneof![
        exec().prop_map(HostMessage::Exec),
        (any::<u32>(), bytes()).prop_map(|(id, data)| HostMessage::Stdin { id, data }),
        any::<u32>().prop_map(|id| HostMessage::StdinClose { id }),
        (any::<u32>(), 1..=64u8).prop_map(|(id, signo)| HostMessage::Signal { id, signo }),
        (any::<u32>(), size()).prop_map(|(id, size)| HostMessage::Resize { id, size }),
        (any::<u32>(), any::<bool>(), any::<u32>()).prop_map(|(id, err, bytes)| HostMessage::Credit {
            id,
            stream: if err { OutputStream::Stderr } else { OutputStream::Stdout },
            bytes
        }),
        any::<u32>().prop_map(|grace| HostMessage::Shutdown { grace }),
    ]
}

fn guest_message() -> impl Strategy<Value = GuestMessage> {
    prop_oneof![
        (".{0,12}", proptest::option::of(".{0,12}")).prop_map(|(agent, unusable)| GuestMessage::Hello {
            version: PROTOCOL_VERSION,
            agent,
            unusable
        }),
        (any::<u32>(), bytes()).prop_map(|(id, data)| GuestMessage::Stdout { id, data }),
        (any::<u32>(), bytes()).prop_map(|(id, data)| GuestMessage::Stderr { id, data }),
        (any::<u32>(), any::<u8>()).prop_map(|(id, code)| GuestMessage::Exited { id, status: ExitStatus::Code(code) }),
        (any::<u32>(), 1..=64u8).prop_map(|(id, signo)| GuestMessage::Exited { id, status: ExitStatus::Signal(signo) }),
        (any::<u32>(), any::<u8>(), ".{0,12}").prop_map(|(id, status, message)| GuestMessage::Error {
            id,
            status,
            message
        }),
        (any::<u32>(), any::<u32>()).prop_map(|(id, bytes)| GuestMessage::Credit { id, bytes }),
        any::<u32>().prop_map(|id| GuestMessage::Started { id }),
    ]
}

/// Feeds `stream` in pieces of the given sizes and collects what comes out until the first error.
fn decode_in_pieces<M: Message>(stream: &[u8], pieces: &[usize]) -> Result<Vec<M>, ProtoError> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    let mut rest = stream;
    let mut sizes = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let piece = sizes.next().unwrap_or(1).clamp(1, rest.len());
        let (now, later) = rest.split_at(piece);
        decoder.feed(now);
        rest = later;
        while let Some(message) = decoder.next_message()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

proptest! {
    #[test]
    fn host_messages_round_trip(messages in vec(host_message(), 0..8), pieces in vec(1usize..50, 1..5)) {
        prop_assert_eq!(decode_in_pieces(&frames(&messages), &pieces), Ok(messages));
    }

    #[test]
    fn guest_messages_round_trip(messages in vec(guest_message(), 0..8), pieces in vec(1usize..50, 1..5)) {
        prop_assert_eq!(decode_in_pieces(&frames(&messages), &pieces), Ok(messages));
    }

    #[test]
    fn any_bytes_are_messages_or_an_error(stream in vec(any::<u8>(), 0..300), pieces in vec(1usize..50, 1..5)) {
        let _ = decode_in_pieces::<HostMessage>(&stream, &pieces);
        let _ = decode_in_pieces::<GuestMessage>(&stream, &pieces);
    }

    #[test]
    fn any_body_is_a_message_or_an_error(kind in prop_oneof![0u8..10, 0x80u8..0x90], body in bytes()) {
        // What decodes must mean the same again: nothing in a body is skipped.
        if let Ok(message) = HostMessage::decode(kind, &body) {
            let again = frames(&[message]);
            prop_assert_eq!(again.get(5..), Some(body.as_slice()));
        }
        if let Ok(message) = GuestMessage::decode(kind, &body) {
            let again = frames(std::slice::from_ref(&message));
            prop_assert_eq!(decode_in_pieces(&again, &[7]), Ok(vec![message]));
        }
    }

    #[test]
    fn a_cut_frame_is_no_message(message in host_message(), keep in any::<prop::sample::Index>()) {
        let stream = frames(&[message]);
        let cut = stream.get(..keep.index(stream.len())).unwrap_or_default();
        prop_assert_eq!(decode_in_pieces::<HostMessage>(cut, &[3]), Ok(vec![]));
    }

    #[test]
    fn windows_of_both_sides_agree(steps in vec((any::<bool>(), 0usize..70_000), 1..200)) {
        let mut sender = SendWindow::default();
        let mut receiver = ReceiveWindow::default();
        let mut held = 0usize;
        for (send, bytes) in steps {
            if send {
                let bytes = bytes.min(sender.available());
                sender.sent(bytes);
                prop_assert_eq!(receiver.received(bytes), Ok(()));
                held += bytes;
            } else {
                let bytes = bytes.min(held);
                held -= bytes;
                if let Some(credit) = receiver.passed_on(bytes) {
                    prop_assert_eq!(sender.credit(credit), Ok(()));
                }
            }
            prop_assert!(held <= WINDOW as usize);
            // A receiver that holds nothing leaves the sender room to go on.
            prop_assert!(held > 0 || sender.available() > (WINDOW / 2) as usize);
        }
    }
}

#[test]
fn a_frame_longer_than_the_bound_is_refused_before_it_is_held() {
    let mut decoder = Decoder::<GuestMessage>::new();
    decoder.feed(&u32::MAX.to_le_bytes());
    assert_eq!(decoder.next_message(), Err(ProtoError::FrameLength(u64::from(u32::MAX))));
    decoder.feed(&frames(&[GuestMessage::Credit { id: 1, bytes: 1 }]));
    assert_eq!(decoder.next_message(), Err(ProtoError::FrameLength(u64::from(u32::MAX))));
    assert_eq!(decode_in_pieces::<GuestMessage>(&[0; 4], &[4]), Err(ProtoError::FrameLength(0)));
}

#[test]
fn a_list_cannot_claim_more_than_its_frame_holds() {
    let mut body = 7u32.to_le_bytes().to_vec();
    body.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(HostMessage::decode(0x01, &body), Err(ProtoError::Body { kind: 0x01, length: 9 }));
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let mut out = vec![1, 2, 3];
    let exec = Exec { argv: vec![vec![b'x'; MAX_FRAME]], ..Exec::default() };
    assert!(matches!(HostMessage::Exec(exec).encode(&mut out), Err(ProtoError::FrameLength(_))));
    let stdin = HostMessage::Stdin { id: 1, data: vec![0; MAX_DATA + 1] };
    assert_eq!(stdin.encode(&mut out), Err(ProtoError::FrameLength(MAX_DATA as u64 + 1)));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn the_largest_data_fits() {
    let message = GuestMessage::Stdout { id: u32::MAX, data: vec![7; MAX_DATA] };
    let stream = frames(std::slice::from_ref(&message));
    assert_eq!(decode_in_pieces(&stream, &[1000]), Ok(vec![message]));
}

#[test]
fn hello_of_another_version_is_told_as_that() {
    let stream = frames(&[GuestMessage::Hello { version: PROTOCOL_VERSION + 1, agent: "9.9".into(), unusable: None }]);
    let expected = GuestMessage::Hello { version: PROTOCOL_VERSION + 1, agent: String::new(), unusable: None };
    assert_eq!(decode_in_pieces(&stream, &[5]), Ok(vec![expected]));
}

#[test]
fn a_stream_that_is_no_agent_is_refused() {
    let mut body = b"MOTO".to_vec();
    body.extend_from_slice(&[1, 0, 0, 0, 0, 0]);
    assert!(matches!(GuestMessage::decode(0x81, &body), Err(ProtoError::Field { field: "magic", .. })));
    assert_eq!(GuestMessage::decode(0x01, &[]), Err(ProtoError::Kind(0x01)));
    assert!(matches!(
        HostMessage::decode(0x04, &[0, 0, 0, 0, 65]),
        Err(ProtoError::Field { field: "signal", value: 65, .. })
    ));
}

#[test]
fn windows_refuse_what_breaks_the_rules() {
    let mut sender = SendWindow::default();
    sender.sent(10);
    assert_eq!(sender.credit(11), Err(WindowError::TooMuchCredit { bytes: 11, outstanding: 10 }));
    let mut receiver = ReceiveWindow::default();
    assert_eq!(receiver.received(WINDOW as usize), Ok(()));
    assert_eq!(receiver.received(1), Err(WindowError::Overrun { bytes: 1, left: 0 }));
    assert_eq!(receiver.passed_on(usize::MAX), Some(WINDOW));
}

#[test]
fn the_shell_sees_signals_above_128() {
    assert_eq!(ExitStatus::Code(7).shell_status(), 7);
    assert_eq!(ExitStatus::Signal(9).shell_status(), 137);
}

//! What kubelet and others say, cut in every way, and what an HTTP/2 library makes of it.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::io::AsyncWriteExt;

/// The headers of the first call that kubelet 1.36.2 makes on a registration socket.
const KUBELET: &str = "8386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f41b054587b8ec545868346a8b0f5\
                       b632d054aa2c35d16cc6a91158598c84d9e951619abb57ee4b641af217bad61665d072755f8b1d75d0620d263d4c\
                       4d65647a8a9acac8b4c7602bbc15c340027465864d833505b11f408e9acac8b0c842d6958b510f21aa9b839bd9ab\
                       40899acac8b24d494f6a7f867df7df7436ff";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn rewrite(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
    for piece in pieces {
        rewriter.push(piece, &mut out);
    }
    rewriter.finish(&mut out);
    out
}

/// Headers as gRPC's C core writes them: with the names.
fn by_name(authority: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":scheme", b"http".as_slice()),
        (":method", b"POST"),
        (":authority", authority),
        (":path", b"/pluginregistration.Registration/GetInfo"),
    ] {
        block.push(0x40);
        for text in [name.as_bytes(), value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text);
        }
    }
    block
}

/// The requests that the HTTP/2 library finds in what a client wrote: authority and path.
async fn understood(said: Vec<u8>, count: usize) -> Result<Vec<(String, String)>, h2::Error> {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(&said).await.unwrap();
    let mut connection = h2::server::handshake(Acceptable::new(server)).await?;
    let mut requests = Vec::new();
    while requests.len() < count {
        let (request, _) = connection.accept().await.expect("the connection ended")?;
        let uri = request.uri();
        requests.push((uri.authority().map(ToString::to_string).unwrap_or_default(), uri.path().to_owned()));
    }
    Ok(requests)
}

#[tokio::test]
async fn kubelets_call_is_understood() {
    let path = "/pluginregistration.Registration/GetInfo".to_owned();
    let headers = bytes(KUBELET);
    assert_eq!(headers.len(), 156);
    let said =
        [PREFACE, &frame(4, 0, 0, &[]), &frame(HEADERS, END_HEADERS, 1, &headers), &frame(0, 1, 1, &[0; 5])]
            .concat();
    let (values, read) = hpack::authorities(&headers);
    assert_eq!(read, Ok(()));
    assert_eq!(values.len(), 1);
    assert_eq!(values[0].content.len(), 48);
    assert_eq!(understood(said, 1).await.unwrap(), [("k".to_owned(), path)]);
}

#[tokio::test]
async fn the_second_call_finds_its_fields_where_it_expects_them() {
    let headers = bytes(KUBELET);
    // The first ones of seven that entered the table are :path and :authority.
    let entries = 7;
    let field = |number_from_first: u8| 0x80 | (62 + entries - 1 - number_from_first);
    let again = [0x83, 0x86, field(0), field(1)];
    let said = [
        PREFACE,
        &frame(4, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &headers),
        &frame(HEADERS, END_HEADERS, 3, &again),
    ]
    .concat();
    let found = understood(said, 2).await.unwrap();
    assert_eq!(found[0], found[1]);
}

#[tokio::test]
async fn names_in_full_are_understood() {
    let said = [
        PREFACE,
        &frame(4, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &by_name(b"%2Fvar%2Flib%2Fkubelet%2Fx.sock")),
    ]
    .concat();
    let found = understood(said, 1).await.unwrap();
    assert_eq!(found, [("k".to_owned(), "/pluginregistration.Registration/GetInfo".to_owned())]);
}

#[test]
fn padding_and_priority_stay_where_they_are() {
    let block = by_name(b"%2Fx");
    let padded = [&[3], &[0, 0, 0, 0, 16][..], &block, &[0; 3]].concat();
    let said = [PREFACE, &frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, &padded)].concat();
    let out = rewrite(&[&said]);
    let expected = [&[3], &[0, 0, 0, 0, 16][..], &by_name(b"k"), &[0; 3]].concat();
    assert_eq!(out, [PREFACE, &frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, &expected)].concat());
}

#[test]
fn a_block_that_goes_on_in_another_frame_is_rewritten_in_the_first() {
    let block = by_name(b"%2Fx");
    let (first, second) = block.split_at(block.len() - 7);
    let rest = frame(9, END_HEADERS, 1, second);
    let said = [PREFACE, &frame(HEADERS, 0, 1, first), &rest].concat();
    let short = by_name(b"k");
    let expected = [PREFACE, &frame(HEADERS, 0, 1, &short[..short.len() - 7]), &rest].concat();
    assert_eq!(rewrite(&[&said]), expected);
}

#[test]
fn what_is_not_understood_goes_through() {
    let cut_short = frame(HEADERS, END_HEADERS, 1, &by_name(b"%2Fx")[..60]);
    let too_long = [&[0xff, 0xff, 0xff, HEADERS, END_HEADERS, 0, 0, 0, 1][..], &[7; 100]].concat();
    let padded_beyond = frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0x41, 1, b'%']);
    let empty = frame(HEADERS, END_HEADERS, 1, &[]);
    let no_value = frame(HEADERS, END_HEADERS, 1, &[0x41, 0]);
    for odd in [cut_short, too_long, padded_beyond, empty, no_value] {
        let said = [PREFACE, &odd].concat();
        assert_eq!(rewrite(&[&said]), said, "{odd:x?}");
    }
    let other = b"GET / HTTP/1.1\r\nHost: %2Fx\r\n\r\n";
    assert_eq!(rewrite(&[other]), other);
    assert_eq!(rewrite(&[b"PRI * HT"]), b"PRI * HT", "ended within the preface");
}

/// A frame with something of everything.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let authority = prop::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(kind, flags, payload)| frame(kind, flags, 1, &payload)),
        (authority, any::<u8>())
            .prop_map(|(authority, flags)| { frame(HEADERS, flags, 1, &by_name(&authority)) }),
        Just(frame(HEADERS, END_HEADERS, 1, &bytes(KUBELET))),
    ]
}

proptest! {
    #[test]
    fn how_it_is_cut_makes_no_difference(
        frames in prop::collection::vec(any_frame(), 0..6),
        rest in prop::collection::vec(any::<u8>(), 0..20),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        is_http2 in prop::bool::weighted(0.9),
    ) {
        let preface = if is_http2 { PREFACE } else { &PREFACE[..9] };
        let said = [preface, &frames.concat(), &rest].concat();
        let whole = rewrite(&[&said]);
        let each: Vec<&[u8]> = said.chunks(1).collect();
        prop_assert_eq!(&rewrite(&each), &whole);
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(said.len() + 1)).collect();
        places.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for place in places {
            pieces.push(&said[from..place]);
            from = place;
        }
        pieces.push(&said[from..]);
        prop_assert_eq!(&rewrite(&pieces), &whole);
        // Nothing becomes longer, and only `:authority` becomes shorter.
        prop_assert!(whole.len() <= said.len());
        if frames.is_empty() {
            prop_assert_eq!(whole, said);
        }
    }

    #[test]
    fn any_bytes_are_survived(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10),
        is_http2: bool,
    ) {
        let mut pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        if is_http2 {
            pieces.insert(0, PREFACE);
        }
        prop_assert!(rewrite(&pieces).len() <= pieces.concat().len());
    }

    #[test]
    fn any_authority_is_replaced_and_nothing_else(authority in prop::collection::vec(any::<u8>(), 1..120)) {
        let said = [PREFACE, &frame(HEADERS, END_HEADERS, 1, &by_name(&authority))].concat();
        let expected = [PREFACE, &frame(HEADERS, END_HEADERS, 1, &by_name(b"k"))].concat();
        prop_assert_eq!(rewrite(&[&said]), expected);
    }

    /// Held back is at most one frame of headers.
    #[test]
    fn little_is_held_back(frames in prop::collection::vec(any_frame(), 0..20)) {
        let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
        rewriter.push(PREFACE, &mut out);
        for byte in frames.concat() {
            rewriter.push(&[byte], &mut out);
            prop_assert!(rewriter.held.len() <= FRAME_HEAD_BYTES + LONGEST_FRAME);
        }
    }
}

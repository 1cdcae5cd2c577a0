//! Makes what kubelet says acceptable to the HTTP/2 library.
//!
//! Where it calls a plugin that wants to be registered, kubelet names the socket's path, percent-encoded, as the
//! `:authority`, which by the standard is none: the library refuses the call. So do gRPC's own C core, and kubelets
//! before 1.26 on other sockets. [`Acceptable`] reads a connection and puts a proper name in its place.
//!
//! Knows frames and lengths only. It must hold back no more than one frame of headers, give the same bytes however the
//! connection cuts them, and leave alone whatever it does not understand.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

use super::hpack::{self, Unclear};

/// What a client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// As long as frames may be, unless a server allows more; ours does not.
const LONGEST_FRAME: usize = 16 << 10;
/// The name that is put in place: a length and one letter. Both ends count the entries of their tables by size; one
/// that is never longer than what it replaces keeps ours whole as long as the other end's.
const NAME: &[u8] = b"\x01k";

/// The rewriting of one connection, apart from all input and output.
#[derive(Debug)]
pub struct Rewriter {
    state: State,
    /// What is not judged yet: part of the preface, of a frame's head, or of a frame of headers.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Preface,
    Head,
    /// A frame of headers, of so many bytes with its head.
    Headers(usize),
    /// The rest of another frame, of so many bytes.
    Other(usize),
    /// Not understood: goes through to the end.
    Anything,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self { state: State::Preface, held: Vec::new() }
    }
}

impl Rewriter {
    /// Takes the next bytes of a connection, and appends to `out` those that are to be read in their place.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let wanted = match self.state {
                State::Preface => PREFACE.len(),
                State::Head => FRAME_HEAD_BYTES,
                State::Headers(length) => length,
                State::Other(rest) => {
                    let (through, after) = bytes.split_at(rest.min(bytes.len()));
                    out.extend_from_slice(through);
                    bytes = after;
                    let rest = rest - through.len();
                    self.state = if rest > 0 { State::Other(rest) } else { State::Head };
                    continue;
                }
                State::Anything => {
                    out.extend_from_slice(bytes);
                    return;
                }
            };
            let (next, after) = bytes.split_at((wanted - self.held.len()).min(bytes.len()));
            self.held.extend_from_slice(next);
            bytes = after;
            if self.held.len() == wanted || self.state == State::Preface {
                self.judge(out);
            }
        }
    }

    /// Appends what was held back, where the connection ends.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.state = State::Anything;
    }

    /// Whether everything goes through from here on.
    fn is_idle(&self) -> bool {
        self.state == State::Anything
    }

    /// What is held is all that its state wants, or a part of the preface.
    fn judge(&mut self, out: &mut Vec<u8>) {
        match self.state {
            State::Preface if !PREFACE.starts_with(&self.held) => self.finish(out),
            State::Preface if self.held.len() < PREFACE.len() => {}
            State::Preface => {
                out.append(&mut self.held);
                self.state = State::Head;
            }
            State::Head => {
                let length = self.held[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                if length > LONGEST_FRAME {
                    return self.finish(out);
                }
                if self.held[3] == HEADERS && length > 0 {
                    self.state = State::Headers(FRAME_HEAD_BYTES + length);
                } else {
                    out.append(&mut self.held);
                    self.state = if length > 0 { State::Other(length) } else { State::Head };
                }
            }
            State::Headers(_) => {
                // A long frame's memory is not kept for the connection's life.
                let frame = std::mem::take(&mut self.held);
                out.extend(rewritten(&frame).unwrap_or(frame));
                self.state = State::Head;
            }
            State::Other(_) | State::Anything => {}
        }
    }
}

/// The frame with another authority; `None` if it has none that could be replaced.
fn rewritten(frame: &[u8]) -> Option<Vec<u8>> {
    let flags = frame[4];
    let (mut start, mut end) = (FRAME_HEAD_BYTES, frame.len());
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    let block = frame.get(start..end)?;
    let (values, understood) = hpack::authorities(block);
    match understood {
        Ok(()) => {}
        // The block goes on in further frames; what was found is whole.
        Err(Unclear::Truncated) if flags & END_HEADERS == 0 => {}
        Err(_) => return None,
    }
    let mut result = frame[..start].to_vec();
    let mut copied = 0;
    for value in values.into_iter().filter(|value| !value.content.is_empty()) {
        result.extend_from_slice(&block[copied..value.whole.start]);
        result.extend_from_slice(NAME);
        copied = value.whole.end;
    }
    if copied == 0 {
        return None;
    }
    result.extend_from_slice(&block[copied..]);
    result.extend_from_slice(&frame[end..]);
    let length = u32::try_from(result.len() - FRAME_HEAD_BYTES).ok()?;
    result[..3].copy_from_slice(&length.to_be_bytes()[1..]);
    Some(result)
}

/// A connection from kubelet, read through a [`Rewriter`].
#[derive(Debug)]
pub struct Acceptable {
    stream: UnixStream,
    rewriter: Rewriter,
    ready: Vec<u8>,
    given: usize,
    has_ended: bool,
}

impl Acceptable {
    /// Reads and writes `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, rewriter: Rewriter::default(), ready: Vec::new(), given: 0, has_ended: false }
    }
}

impl AsyncRead for Acceptable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.given < this.ready.len() {
                let rest = &this.ready[this.given..];
                let now = &rest[..rest.len().min(buffer.remaining())];
                buffer.put_slice(now);
                this.given += now.len();
                return Poll::Ready(Ok(()));
            }
            if this.has_ended {
                return Poll::Ready(Ok(()));
            }
            if this.rewriter.is_idle() {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            let mut scratch = [0; 4096];
            let mut scratch = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut scratch))?;
            this.ready.clear();
            this.given = 0;
            if scratch.filled().is_empty() {
                this.has_ended = true;
                this.rewriter.finish(&mut this.ready);
            } else {
                this.rewriter.push(scratch.filled(), &mut this.ready);
            }
        }
    }
}

impl AsyncWrite for Acceptable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Acceptable {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests;

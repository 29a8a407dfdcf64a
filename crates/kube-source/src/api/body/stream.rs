//! Events of a watch, found in the bytes as they arrive: one on each line, or each in a frame with its length.

use bytes::{Buf, Bytes, BytesMut};

use super::{ReadError, WatchEvent, protobuf};
use crate::api::{
    MediaType,
    kinds::{Item, Kind},
    watch_state::End,
};

/// Bytes of a watch that are not read yet.
#[derive(Debug)]
pub(in crate::api) struct EventStream {
    kind: Kind,
    pieces: Pieces,
}

#[derive(Debug)]
enum Pieces {
    Lines(Lines),
    Frames(Frames),
}

impl EventStream {
    pub(in crate::api) fn new(kind: Kind, media: MediaType) -> Self {
        let pieces = match media {
            MediaType::Json => Pieces::Lines(Lines::default()),
            MediaType::Protobuf => Pieces::Frames(Frames::default()),
        };
        EventStream { kind, pieces }
    }

    pub(in crate::api) fn push(&mut self, bytes: &[u8]) {
        match &mut self.pieces {
            Pieces::Lines(lines) => lines.push(bytes),
            Pieces::Frames(frames) => frames.push(bytes),
        }
    }

    /// Reads the next complete event.
    pub(in crate::api) fn next(&mut self) -> Option<Result<WatchEvent<Item>, ReadError>> {
        let kind = self.kind;
        match &mut self.pieces {
            Pieces::Lines(lines) => lines.next().map(|line| {
                let line = std::str::from_utf8(line)?;
                WatchEvent::parse(line)?.read(|json| kind.read_json(json))
            }),
            Pieces::Frames(frames) => frames
                .next()
                .map(|frame| protobuf::parse_event(frame, kind)?.read(|message| kind.read_protobuf(message))),
        }
    }

    /// Length of the event that is not complete yet.
    pub(in crate::api) fn pending(&self) -> usize {
        match &self.pieces {
            Pieces::Lines(lines) => lines.pending(),
            Pieces::Frames(frames) => frames.buffer.len(),
        }
    }

    /// Tells whether the event that is not complete yet is longer than this, or says that it will be.
    pub(in crate::api) fn exceeds(&self, limit: usize) -> bool {
        match &self.pieces {
            Pieces::Lines(lines) => lines.pending() > limit,
            Pieces::Frames(frames) => frames.announced().is_some_and(|length| length > limit),
        }
    }

    /// End of a watch whose last event does not come to its end. The length of a frame may have been spoilt.
    pub(in crate::api) fn unfinished(&self) -> End {
        let text = "a watch event has no end".to_owned();
        match &self.pieces {
            Pieces::Lines(_) => End::Broken(text),
            Pieces::Frames(_) => End::Garbled(text),
        }
    }

    /// Frees the memory of a large burst.
    pub(in crate::api) fn release(&mut self) {
        match &mut self.pieces {
            Pieces::Lines(lines) => lines.release(),
            Pieces::Frames(frames) => frames.release(),
        }
    }
}

/// Buffer that takes bytes as they arrive and gives them back line by line.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Start of the line that is not complete yet.
    start: usize,
    /// Position up to which there is no end of a line.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line that is not blank.
    fn next(&mut self) -> Option<&[u8]> {
        loop {
            let length = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(length) = length else {
                self.searched = self.buffer.len();
                return None;
            };
            let (start, end) = (self.start, self.searched + length);
            self.start = end + 1;
            self.searched = self.start;
            if !self.buffer[start..end].trim_ascii().is_empty() {
                return Some(&self.buffer[start..end]);
            }
        }
    }

    /// Length of the line that is not complete yet.
    const fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Frees the memory of a large burst.
    fn release(&mut self) {
        if self.start == self.buffer.len() {
            *self = Lines::default();
        }
    }
}

/// Buffer that takes bytes as they arrive and gives them back frame by frame: four bytes of length, the highest first,
/// and so many bytes (staging/src/k8s.io/apimachinery/pkg/util/framer/framer.go).
#[derive(Debug, Default)]
struct Frames {
    buffer: BytesMut,
}

/// Length of the length of a frame.
const HEAD: usize = size_of::<u32>();

impl Frames {
    fn push(&mut self, bytes: &[u8]) {
        // Memory is taken for what has arrived, never for what a length announces.
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame.
    fn next(&mut self) -> Option<Bytes> {
        let length = self.announced()?;
        if self.buffer.len() - HEAD < length {
            return None;
        }
        self.buffer.advance(HEAD);
        Some(self.buffer.split_to(length).freeze())
    }

    /// Length of the next frame, once its head is complete.
    fn announced(&self) -> Option<usize> {
        let head = self.buffer.first_chunk::<HEAD>()?;
        usize::try_from(u32::from_be_bytes(*head)).ok()
    }

    fn release(&mut self) {
        if self.buffer.is_empty() {
            *self = Frames::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_wherever_they_are_cut() {
        let text = b"one\n\ntwo\r\n  \nthree and more\nlast";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for part in text.chunks(size) {
                lines.push(part);
                while let Some(line) = lines.next() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
                lines.release();
            }
            assert_eq!(found, ["one", "two\r", "three and more"], "size {size}");
        }
    }

    #[test]
    fn frames_are_found_wherever_they_are_cut() {
        let frames = [&b"one"[..], b"", b"two\n\0", &[7; 300]];
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
            bytes.extend(frame);
        }
        bytes.extend([0, 0, 0]);
        for size in 1..bytes.len() {
            let (mut buffer, mut found) = (Frames::default(), Vec::new());
            for part in bytes.chunks(size) {
                buffer.push(part);
                found.extend(std::iter::from_fn(|| buffer.next()));
                buffer.release();
            }
            assert_eq!(found, frames, "size {size}");
            assert_eq!((buffer.announced(), buffer.buffer.len()), (None, 3), "size {size}");
        }
    }

    #[test]
    fn a_frame_is_too_long_as_soon_as_it_says_so() {
        let mut stream = EventStream::new(Kind::Service, MediaType::Protobuf);
        stream.push(&[0xff, 0xff, 0xff]);
        assert!(!stream.exceeds(100));
        stream.push(&[0xff]);
        assert!(stream.exceeds(100) && stream.next().is_none());
        let mut stream = EventStream::new(Kind::Service, MediaType::Protobuf);
        stream.push(&[0, 0, 0, 100]);
        assert!(!stream.exceeds(100) && stream.exceeds(99));
    }
}

//! Replies captured from kernels with examples/capture_replies.rs (little endian): one message a line, `name
//! hexadecimal`.

/// Kernel series.
pub const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];

/// Replies of each kernel.
const TEXTS: [(&str, &str); 4] = [
    (KERNELS[0], include_str!("captures/5.10.txt")),
    (KERNELS[1], include_str!("captures/6.1.txt")),
    (KERNELS[2], include_str!("captures/6.12.txt")),
    (KERNELS[3], include_str!("captures/7.2.txt")),
];

/// All messages, each with `kernel/name`, in the order of capture.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let line = |kernel: &str, line: &str| {
        let (name, hexadecimal) = line.split_once(' ').expect("name and hexadecimal");
        let byte = |at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("hexadecimal");
        (format!("{kernel}/{name}"), (0..hexadecimal.len()).step_by(2).map(byte).collect())
    };
    TEXTS.iter().flat_map(|(kernel, text)| text.lines().map(move |l| line(kernel, l))).collect()
}

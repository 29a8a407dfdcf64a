//! Seeds: answers of kernels and API servers, and files as they are written.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::Target;

/// Origin of an input, and the input.
pub type Seed = (String, Vec<u8>);

impl Target {
    /// Seeds of the target.
    pub fn seeds(&self) -> io::Result<Vec<Seed>> {
        let mut seeds = Vec::new();
        for place in self.seeds {
            read(&repository().join(place), &mut seeds)?;
        }
        Ok(seeds)
    }

    /// Inputs that once broke the target.
    pub fn findings(&self) -> io::Result<Vec<Seed>> {
        let (folder, mut findings) = (repository().join("fuzz/findings").join(self.name), Vec::new());
        if folder.exists() {
            read(&folder, &mut findings)?;
        }
        Ok(findings)
    }

    /// Writes seeds and findings into a folder, one file for each.
    pub fn write_seeds(&self, folder: &Path) -> io::Result<()> {
        for (number, (_, input)) in self.seeds()?.iter().chain(&self.findings()?).enumerate() {
            fs::write(folder.join(format!("seed-{number:03}")), input)?;
        }
        Ok(())
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(place: &Path, seeds: &mut Vec<Seed>) -> io::Result<()> {
    if place.is_dir() {
        let mut files: Vec<_> =
            fs::read_dir(place)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
        files.sort_unstable();
        return files.iter().try_for_each(|file| read(file, seeds));
    }
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    match place.extension().and_then(|extension| extension.to_str()) {
        // Captured messages, one line for each: a name and hexadecimal digits.
        Some("hex" | "txt") => {
            let text = fs::read_to_string(place)?;
            seeds.extend(text.lines().enumerate().map(|(number, line)| {
                (format!("{name}:{}", number + 1), from_line(line).unwrap_or_else(|| line.into()))
            }));
        }
        _ => seeds.push((name.into_owned(), fs::read(place)?)),
    }
    Ok(())
}

fn from_line(line: &str) -> Option<Vec<u8>> {
    let (_, digits) = line.split_once(' ')?;
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect()
}

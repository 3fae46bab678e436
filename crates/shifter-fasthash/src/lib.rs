//! Files that users name for imports: opened as far as their own reach, hashed, and brought from another host. The gateway
//! uses `open` for files of its own machine; the program `fasthash` does the same where a remote system's files are, and
//! `talk` is what the two say to each other. Runs nothing, writes no file, and knows neither catalog nor network.

pub mod hash;
pub mod open;
pub mod talk;

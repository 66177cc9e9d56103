//! How a log looks on disk. (To be written.)

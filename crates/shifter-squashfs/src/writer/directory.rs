//! Listings of directories. Entries stand behind headers that say what they share; large directories get an
//! index, one line per metadata block, through which the kernel finds a name without reading all of them.

use super::encoder::METADATA_BYTES;
use super::error::WriteError;
use super::inode::{Inode, Kind};
use super::metadata::{MetadataWriter, Place};
use super::spool::SpoolFile;

/// SQUASHFS_NAME_LEN: bytes of a name.
const LONGEST_NAME: usize = 256;
/// SQUASHFS_DIR_COUNT: entries behind one header.
const ENTRIES_PER_HEADER: u32 = 256;
const HEADER_BYTES: usize = 12;

/// A listing in the directory table.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) place: Place,
    /// Its bytes.
    pub(super) size: u64,
    /// How many entries are directories.
    pub(super) directories: u32,
    /// The index for the inode, and its entries; empty for small directories.
    pub(super) index: Vec<u8>,
    pub(super) indexes: u16,
}

/// Entries that will stand behind one header.
#[derive(Default)]
struct Group {
    entries: Vec<u8>,
    count: u32,
    /// The metadata block of all their inodes.
    block: u64,
    /// What their inode numbers are told relative to.
    number: u32,
    first_name: Vec<u8>,
}

/// Writes the listing of one directory; the entries must be sorted by name.
pub(super) fn write_listing<N: AsRef<[u8]>>(
    table: &mut MetadataWriter<SpoolFile>,
    entries: impl IntoIterator<Item = (N, Inode)>,
) -> Result<Listing, WriteError> {
    let mut listing = Listing { place: table.place(), ..Listing::default() };
    let mut indexed_block = listing.place.block;
    let mut group = Group::default();
    let mut previous = Vec::new();
    for (name, inode) in entries {
        let name = name.as_ref();
        check_name(name, &previous)?;
        previous.clear();
        previous.extend_from_slice(name);
        let block = inode.reference >> 16;
        let delta = i16::try_from(i64::from(inode.number) - i64::from(group.number));
        // A header at the start of each metadata block makes an index entry possible there.
        let full = usize::from(table.place().offset) + HEADER_BYTES + group.entries.len() >= METADATA_BYTES;
        let delta = match delta {
            Ok(delta)
                if group.count > 0 && group.count < ENTRIES_PER_HEADER && group.block == block && !full =>
            {
                delta
            }
            _ => {
                write_group(table, &mut listing, &mut indexed_block, &mut group)?;
                group = Group { block, number: inode.number, first_name: name.to_vec(), ..group };
                0
            }
        };
        listing.directories += u32::from(inode.kind == Kind::Directory);
        let fields = [
            inode.reference as u16,
            delta.cast_unsigned(),
            inode.kind as u16,
            u16::try_from(name.len() - 1).unwrap_or(u16::MAX),
        ];
        group.entries.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        group.entries.extend_from_slice(name);
        group.count += 1;
    }
    write_group(table, &mut listing, &mut indexed_block, &mut group)?;
    if listing.size <= METADATA_BYTES as u64 {
        (listing.index, listing.indexes) = (Vec::new(), 0);
    }
    Ok(listing)
}

fn write_group(
    table: &mut MetadataWriter<SpoolFile>,
    listing: &mut Listing,
    indexed_block: &mut u64,
    group: &mut Group,
) -> Result<(), WriteError> {
    if group.count == 0 {
        return Ok(());
    }
    let limit = |what| move |_| WriteError::Limit { what, limit: u64::from(u32::MAX) };
    let place = table.place();
    // Were there more than 65,535, the names behind the last one would only be found more slowly.
    if place.block != *indexed_block && listing.indexes < u16::MAX {
        *indexed_block = place.block;
        let position = u32::try_from(listing.size).map_err(limit("bytes in a directory"))?;
        let block = u32::try_from(place.block).map_err(limit("bytes in directories"))?;
        let length = u32::try_from(group.first_name.len() - 1).unwrap_or(u32::MAX);
        listing.index.extend([position, block, length].iter().flat_map(|word| word.to_le_bytes()));
        listing.index.extend_from_slice(&group.first_name);
        listing.indexes += 1;
    }
    let block = u32::try_from(group.block).map_err(limit("bytes in inodes"))?;
    let header = [group.count - 1, block, group.number];
    table.write(&header.map(u32::to_le_bytes).concat())?;
    table.write(&group.entries)?;
    listing.size += (HEADER_BYTES + group.entries.len()) as u64;
    group.entries.clear();
    group.count = 0;
    Ok(())
}

fn check_name(name: &[u8], previous: &[u8]) -> Result<(), WriteError> {
    let reason = if name.is_empty() || name.len() > LONGEST_NAME {
        "names have 1 to 256 bytes"
    } else if name == b"." || name == b".." {
        "it means a directory already"
    } else if name.contains(&b'/') || name.contains(&0) {
        "names hold neither slashes nor zero bytes"
    } else if name == previous {
        "the directory has it twice"
    } else if name < previous {
        "the directory's entries are not sorted"
    } else {
        return Ok(());
    };
    Err(WriteError::Name { name: name.to_owned(), reason })
}

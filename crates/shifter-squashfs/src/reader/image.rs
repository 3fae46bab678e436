//! An open image: its superblock and the places of its tables, checked against each other. Tables lie one behind
//! the other in the order that the kernel demands, and files' data before them, so that no byte is two things.

use super::cursor::Cursor;
use super::data::FileData;
use super::directory::Listing;
use super::error::{Part, Place, Problem, ReadError};
use super::inode::{self, DirectoryLayout, FileLayout, Inode, Kind};
use super::limits::Limits;
use super::lookup::Lookup;
use super::source::Source;
use super::store::{Extent, Region, Store};
use super::superblock::{SUPERBLOCK_BYTES, Superblock, refuse};
use super::walk::{Entry, Walk};
use super::xattr::{self, Xattr, XattrTable};

/// In a data block's size: it is stored as it is.
const STORED: u32 = 1 << 24;

/// A squashfs image, open for reading. Cheap to ask, never believed.
pub struct Image<S> {
    pub(super) store: Store<S>,
    pub(super) superblock: Superblock,
    pub(super) limits: Limits,
    pub(super) inodes: Region,
    pub(super) directories: Region,
    ids: Vec<u32>,
    fragments: Option<Lookup>,
    pub(super) xattrs: Option<XattrTable>,
}

impl<S: Source> Image<S> {
    /// Reads the superblock and the lists of tables' blocks.
    pub fn open(source: S, limits: &Limits) -> Result<Self, ReadError> {
        let superblock = Superblock::read(&source, limits)?;
        let length = superblock.length;
        let store = Store::new(source, superblock.codec, superblock.block_size, length, limits)?;
        let (inode_table, directory_table) = (superblock.inode_table, superblock.directory_table);
        if inode_table < SUPERBLOCK_BYTES || inode_table > directory_table || directory_table > length {
            let what = "the inode table";
            let (start, end) = (inode_table, directory_table);
            let problem = Problem::Outside { what, start, end, from: SUPERBLOCK_BYTES, to: length };
            return Err(refuse(64, problem));
        }

        // From the last to the first, each ending where its successor begins.
        let mut ceiling = length;
        let xattrs = match superblock.xattr_table {
            Some(start) => Some(XattrTable::open(&store, start, directory_table, ceiling, limits)?),
            None => None,
        };
        ceiling = xattrs.as_ref().map_or(ceiling, XattrTable::start);
        let lookup = |part, start, count, bytes, ceiling| {
            Lookup::open(&store, part, (start, directory_table, ceiling), count, bytes)
        };
        let ids = lookup(Part::IdTable, superblock.id_table, u64::from(superblock.ids), 4, ceiling)?;
        ceiling = ids.first_block();
        if let Some(start) = superblock.export_table {
            let export = lookup(Part::ExportTable, start, u64::from(superblock.inodes), 8, ceiling)?;
            ceiling = export.first_block();
        }
        let mut fragments = None;
        if superblock.fragments > 0 {
            let (start, count) = (superblock.fragment_table, u64::from(superblock.fragments));
            let table = lookup(Part::FragmentTable, start, count, 16, ceiling)?;
            ceiling = table.first_block();
            fragments = Some(table);
        }

        let ids = all_ids(&store, &ids)?;
        let inodes = Region { part: Part::InodeTable, start: inode_table, end: directory_table };
        let directories = Region { part: Part::DirectoryTable, start: directory_table, end: ceiling };
        let image = Self { store, superblock, limits: *limits, inodes, directories, ids, fragments, xattrs };
        image.check_fragments()?;
        Ok(image)
    }

    /// Inodes that the superblock claims; [`Walk`] refuses a tree with another number.
    pub fn inode_count(&self) -> u32 {
        self.superblock.inodes
    }

    /// Bytes of a full data block.
    pub fn block_size(&self) -> u32 {
        self.superblock.block_size
    }

    /// How the image is compressed.
    pub fn codec(&self) -> super::Codec {
        self.superblock.codec
    }

    /// When the image was made, in seconds since 1970.
    pub fn modified(&self) -> u32 {
        self.superblock.modified
    }

    /// Bytes of the image, without what may follow it in the file.
    pub fn length(&self) -> u64 {
        self.superblock.length
    }

    /// The root directory.
    pub fn root(&self) -> Result<Inode, ReadError> {
        let root = self.inode(self.superblock.root)?;
        if !matches!(root.kind, Kind::Directory(_)) {
            return Err(refuse(32, Problem::Misused("the root is not a directory")));
        }
        Ok(root)
    }

    /// Goes through the whole tree, and checks it on the way.
    pub fn walk(&self) -> Result<Walk<'_, S>, ReadError> {
        Walk::new(self)
    }

    /// A regular file's content, to be read once from its beginning.
    pub fn data(&self, file: &Entry) -> Result<FileData<'_, S>, ReadError> {
        let data = match file.inode.kind {
            Kind::File(layout) => FileData::new(self, &file.path, layout),
            _ => {
                let problem = Problem::Misused("only regular files have content");
                Err(ReadError::new(Place::somewhere(Part::Tree), problem))
            }
        };
        data.map_err(|error| error.of(&file.path))
    }

    /// An inode's extended attributes, in the image's order.
    pub fn xattrs(&self, entry: &Entry) -> Result<Vec<Xattr>, ReadError> {
        match entry.inode.xattrs {
            Some(number) => xattr::read(self, number).map_err(|error| error.of(&entry.path)),
            None => Ok(Vec::new()),
        }
    }

    /// The inode that a directory or the superblock refers to: 48 bits of distance, 16 within the block.
    pub(super) fn inode(&self, reference: u64) -> Result<Inode, ReadError> {
        inode::read(self, reference)
    }

    pub(super) fn listing(&self, directory: DirectoryLayout) -> Result<Listing<'_, S>, ReadError> {
        Listing::new(self, directory)
    }

    /// The user or group of this number in the table of ids.
    pub(super) fn id(&self, number: u16) -> Option<u32> {
        self.ids.get(usize::from(number)).copied()
    }

    /// Where the data is that this word of a list of blocks tells the size of; nothing if it is a hole.
    pub(super) fn extent(
        &self,
        place: Place,
        part: Part,
        start: u64,
        word: u32,
    ) -> Result<Option<Extent>, ReadError> {
        let bytes = word & !STORED;
        if word == 0 {
            return Ok(None);
        }
        if bytes == 0 || bytes > self.superblock.block_size {
            let rule = "it must not be more than the image's block size, nor none if stored as it is";
            let field = "a data block's stored size";
            return Err(ReadError::new(place, Problem::Field { field, found: u64::from(bytes), rule }));
        }
        let end = start.saturating_add(u64::from(bytes));
        let (from, to) = (SUPERBLOCK_BYTES, self.inodes.start);
        if start < from || end > to {
            let what = "a data block";
            return Err(ReadError::new(place, Problem::Outside { what, start, end, from, to }));
        }
        Ok(Some(Extent { part, start, bytes, compressed: word & STORED == 0 }))
    }

    /// Where a file's tail is.
    pub(super) fn fragment(&self, place: Place, number: u32) -> Result<Extent, ReadError> {
        let entry = match &self.fragments {
            Some(table) => table.entry(&self.store, u64::from(number))?,
            None => None,
        };
        let Some(mut entry) = entry else {
            let (field, other) = ("the fragment's number", "the number of fragments");
            let expected = u64::from(self.superblock.fragments);
            let problem = Problem::Disagrees { field, found: u64::from(number), other, expected };
            return Err(ReadError::new(place, problem));
        };
        self.fragment_entry(&mut entry)
    }

    fn fragment_entry(&self, entry: &mut Cursor<'_, S>) -> Result<Extent, ReadError> {
        let (start, word, _unused) = (entry.u64()?, entry.u32()?, entry.u32()?);
        self.extent(entry.place(), Part::Fragments, start, word)?.ok_or_else(|| {
            let (field, rule) = ("a fragment's stored size", "a fragment holds something");
            entry.refuse(Problem::Field { field, found: 0, rule })
        })
    }

    /// All of the table, also what no file uses: a count that is wrong shows here.
    fn check_fragments(&self) -> Result<(), ReadError> {
        let Some(table) = &self.fragments else { return Ok(()) };
        if let Some(mut entries) = table.entry(&self.store, 0)? {
            for _ in 0..table.count() {
                self.fragment_entry(&mut entries)?;
            }
        }
        Ok(())
    }

    /// How many blocks a file's list has, and how long its tail in a fragment is.
    pub(super) fn shape(&self, file: FileLayout) -> (u64, usize) {
        let block_size = u64::from(self.superblock.block_size);
        let whole = file.size.checked_div(block_size).unwrap_or(0);
        let rest = file.size.checked_rem(block_size).unwrap_or(0);
        match (file.fragment, usize::try_from(rest)) {
            (Some(_), Ok(tail)) => (whole, tail),
            _ => (whole.saturating_add(u64::from(rest > 0)), 0),
        }
    }
}

fn all_ids<S: Source>(store: &Store<S>, table: &Lookup) -> Result<Vec<u32>, ReadError> {
    let mut ids = Vec::new();
    if let Some(mut cursor) = table.entry(store, 0)? {
        for _ in 0..table.count() {
            ids.push(Cursor::u32(&mut cursor)?);
        }
    }
    Ok(ids)
}

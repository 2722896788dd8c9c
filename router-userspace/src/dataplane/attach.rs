//! Programs on ports: TC on every one, XDP in front of it where it was chosen.
//!
//! Links are pinned as `xdp-<ifindex>` and `tc-<ifindex>`. Kernels before 6.6 have no TC links:
//! there the program is a clsact filter, which outlives its maker by itself, and a pin of the
//! program as `clsact-<ifindex>` remembers that we put it there.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io, thread};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode, tc};
use aya::{Ebpf, util::KernelVersion};
use tracing::debug;

use super::{Dataplane, block, pins};
use crate::compile::Attachment;
use crate::compile::attach::Front;
use crate::error::Failures;

const XDP_PROGRAM: &str = "xvr_xdp";
/// The same for drivers that hand over frames in several buffers.
const MULTI_BUFFER_PROGRAM: &str = "xvr_xdp_frags";
const TC_PROGRAM: &str = "xvr_tc";
const TAGS_PROGRAM: &str = "xvr_tags";
/// The blocks of filters that tagged ports' own interfaces share (`tc filter show block N`).
pub const INGRESS_BLOCK: u32 = 0x7876_0001;
/// That at their egress.
pub const EGRESS_BLOCK: u32 = 0x7876_0002;
/// What a pinned XDP link does not tell by itself.
const MARKED: [Front; 2] = [Front::GenericXdp, Front::MultiBufferXdp];
/// Where our clsact filter stands among others'.
const PRIORITY: u16 = 50;

/// How a port's programs came to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// What is in front of TC.
    pub front: Front,
    /// Why, a sentence; says so where the driver refused.
    pub reason: String,
}

/// Has the verifier look at the programs, side by side: it is what a start waits for longest. That for several buffers is
/// looked at when a port needs it.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<()> {
    thread::scope(|scope| {
        let loading: Vec<_> = ebpf
            .programs_mut()
            .filter(|(name, _)| *name != MULTI_BUFFER_PROGRAM)
            .map(|(name, program)| {
                let name = name.to_owned();
                scope.spawn(move || load(program).with_context(|| format!("load the program {name}")))
            })
            .collect();
        loading.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a thread that loads a program panicked")))
        })
    })
}

fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::Xdp(xdp) => Ok(xdp.load()?),
        Program::SchedClassifier(tc) => Ok(tc.load()?),
        other => bail!("{:?} is no program of ours", other.prog_type()),
    }
}

/// An XDP program by its name, loaded.
fn xdp<'ebpf>(ebpf: &'ebpf mut Ebpf, name: &str) -> Result<&'ebpf mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?;
    if program.fd().is_err() {
        load(program).with_context(|| format!("load the program {name}"))?;
    }
    Ok(program.try_into()?)
}

fn tc(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program = ebpf.program_mut(TC_PROGRAM).context("the object has no TC program")?;
    Ok(program.try_into()?)
}

impl Dataplane {
    /// Puts the programs on a port, or replaces the ones that are there, without a packet in
    /// between seeing none of them.
    ///
    /// # Errors
    /// The interface is gone, or the driver refuses and the attachment may not fall back.
    pub fn attach(&mut self, ifindex: u32, attachment: &Attachment) -> Result<Attached> {
        self.attach_tc(ifindex).with_context(|| format!("attach TC to interface {ifindex}"))?;
        let wanted = attachment.front;
        let attached = match wanted {
            Front::Nothing => self.detach_xdp(ifindex).map(|()| wanted),
            Front::GenericXdp => self.attach_xdp(ifindex, wanted).map(|()| wanted),
            Front::NativeXdp => self.attach_either(ifindex, [wanted, Front::MultiBufferXdp]),
            Front::MultiBufferXdp => self.attach_either(ifindex, [wanted, Front::NativeXdp]),
        };
        match attached {
            Ok(front) if front == wanted => Ok(Attached { front, reason: attachment.reason.clone() }),
            Ok(front) => {
                Ok(Attached { front, reason: format!("{}; the driver refused {wanted}", attachment.reason) })
            }
            Err(error) if attachment.may_fall_back => {
                self.detach_xdp(ifindex)?;
                let reason = format!("the driver refused {wanted}: {error:#}");
                Ok(Attached { front: Front::Nothing, reason })
            }
            Err(error) => Err(error).with_context(|| format!("attach {wanted} to interface {ifindex}")),
        }
    }

    /// Attaches the first of two programs that the driver takes with the MTU that it has.
    fn attach_either(&mut self, ifindex: u32, [first, second]: [Front; 2]) -> Result<Front> {
        match self.attach_xdp(ifindex, first) {
            Ok(()) => Ok(first),
            Err(error) if may_be_for_size(&error) => match self.attach_xdp(ifindex, second) {
                Ok(()) => Ok(second),
                Err(other) => {
                    debug!("interface {ifindex} takes no {second} either: {other:#}");
                    Err(error)
                }
            },
            Err(error) => Err(error),
        }
    }

    /// Puts the programs on tagged ports' own interfaces, or replaces the ones that are there. There has to be such an
    /// interface.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_blocks(&mut self) -> Result<()> {
        for (block, name) in [(INGRESS_BLOCK, TC_PROGRAM), (EGRESS_BLOCK, TAGS_PROGRAM)] {
            let program = self.ebpf.program(name).with_context(|| format!("the object has no {name}"))?;
            let fd = program.fd()?.as_fd().as_raw_fd();
            block::attach(block, PRIORITY, fd, name)
                .with_context(|| format!("attach {name} to its block"))?;
        }
        Ok(())
    }

    /// Takes the programs off a port.
    ///
    /// # Errors
    /// Every one that stays.
    pub fn detach(&mut self, ifindex: u32) -> Result<()> {
        let mut failures = Failures::default();
        failures.note(self.detach_xdp(ifindex));
        failures.note(self.detach_tc(ifindex));
        failures.into_result()
    }

    /// What is attached now, by interface: interfaces that have our TC program.
    ///
    /// # Errors
    /// The pins cannot be read.
    pub fn observe_attachments(&self) -> Result<BTreeMap<u32, Front>> {
        let mut attached = BTreeMap::new();
        let entries =
            fs::read_dir(&self.pin_dir).with_context(|| format!("read {}", self.pin_dir.display()))?;
        for entry in entries {
            let name = entry?.file_name();
            let Some((kind, ifindex)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
            let Ok(ifindex) = ifindex.parse::<u32>() else { continue };
            let is_there = match kind {
                "tc" => self.live_link(&format!("tc-{ifindex}"))?.is_some(),
                "clsact" => name_of(ifindex).is_ok(),
                _ => false,
            };
            if is_there {
                attached.insert(ifindex, self.observe_front(ifindex)?);
            }
        }
        Ok(attached)
    }

    /// Detaches everywhere and removes every pin. The tables and their flows go with the last
    /// program.
    ///
    /// # Errors
    /// Every step that failed; the others are done all the same.
    pub fn remove(mut self) -> Result<()> {
        let mut failures = Failures::default();
        for entry in fs::read_dir(&self.pin_dir)? {
            let name = entry?.file_name();
            let parts = name.to_str().and_then(|name| name.split_once('-'));
            if let Some(ifindex) = parts.and_then(|(_, ifindex)| ifindex.parse().ok()) {
                failures.note(self.detach(ifindex));
            }
        }
        failures.note(pins::remove(&self.pin_dir));
        failures.into_result()
    }

    fn observe_front(&self, ifindex: u32) -> Result<Front> {
        if self.live_link(&format!("xdp-{ifindex}"))?.is_none() {
            return Ok(Front::Nothing);
        }
        // The link does not tell; the pin's companion does.
        let is_marked = |front: &Front| self.mark(*front, ifindex).is_some_and(|mark| mark.exists());
        Ok(MARKED.into_iter().find(is_marked).unwrap_or(Front::NativeXdp))
    }

    /// Remembers that an XDP link is none of the usual kind: a folder, since bpffs has no other files.
    fn mark(&self, front: Front, ifindex: u32) -> Option<PathBuf> {
        let kind = match front {
            Front::GenericXdp => "generic",
            Front::MultiBufferXdp => "multi",
            Front::NativeXdp | Front::Nothing => return None,
        };
        Some(self.pin_dir.join(format!("{kind}-{ifindex}")))
    }

    /// A pinned link that is still attached. The pin of one that was cut, by force or with its
    /// interface, is removed.
    fn live_link(&self, pin: &str) -> Result<Option<FdLink>> {
        let path = self.pin_dir.join(pin);
        if !path.exists() {
            return Ok(None);
        }
        if link_ifindex(&path)? == 0 {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            return Ok(None);
        }
        let pinned = PinnedLink::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Some(FdLink::from(pinned)))
    }

    fn attach_xdp(&mut self, ifindex: u32, wanted: Front) -> Result<()> {
        let (name, mode) = match wanted {
            Front::GenericXdp => (XDP_PROGRAM, XdpMode::Skb),
            Front::MultiBufferXdp => (MULTI_BUFFER_PROGRAM, XdpMode::Driver),
            Front::NativeXdp | Front::Nothing => (XDP_PROGRAM, XdpMode::Driver),
        };
        // What is there goes on while the verifier looks at what is to come.
        xdp(&mut self.ebpf, name)?;
        // Not replaced by one of another kind: to what the first one takes, a veth holds its peer's MTU until it is off.
        if self.observe_front(ifindex)? != wanted {
            self.detach_xdp(ifindex)?;
        }
        let pin = format!("xdp-{ifindex}");
        let old = self.live_link(&pin)?;
        let path = self.pin_dir.join(&pin);
        let mark = self.mark(wanted, ifindex);
        let program = xdp(&mut self.ebpf, name)?;
        if let Some(old) = old {
            let id = program
                .attach_to_link(XdpLink::try_from(old)?)
                .map_err(|error| explain(ifindex, error.into()))?;
            // The pin keeps the link: dropping our handle of it detaches nothing.
            drop(program.take_link(id)?);
            return Ok(());
        }
        let id = program.attach_to_if_index(ifindex, mode).map_err(|error| explain(ifindex, error.into()))?;
        let link = FdLink::try_from(program.take_link(id)?)
            .map_err(|_| anyhow!("the kernel has no XDP links (5.9 and later have)"))?;
        if let Some(mark) = mark {
            fs::create_dir_all(&mark).with_context(|| format!("create {}", mark.display()))?;
        }
        link.pin(&path).with_context(|| format!("pin {}", path.display()))?;
        Ok(())
    }

    fn detach_xdp(&mut self, ifindex: u32) -> Result<()> {
        for mark in MARKED.into_iter().filter_map(|front| self.mark(front, ifindex)) {
            if mark.exists() {
                fs::remove_dir(&mark).with_context(|| format!("remove {}", mark.display()))?;
            }
        }
        let pin = self.pin_dir.join(format!("xdp-{ifindex}"));
        if pin.exists() {
            cut(&pin)?;
        }
        remove_pin(&pin)
    }

    fn attach_tc(&mut self, ifindex: u32) -> Result<()> {
        if KernelVersion::current().map_err(|error| anyhow!("ask for the kernel's version: {error}"))?
            < KernelVersion::new(6, 6, 0)
        {
            return self.attach_clsact(ifindex);
        }
        let pin = format!("tc-{ifindex}");
        let old = self.live_link(&pin)?;
        let path = self.pin_dir.join(&pin);
        let program = tc(&mut self.ebpf)?;
        if let Some(old) = old {
            let id = program.attach_to_link(SchedClassifierLink::try_from(old)?)?;
            drop(program.take_link(id)?);
            return Ok(());
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(&name_of(ifindex)?, TcAttachType::Ingress, options)?;
        let link = FdLink::try_from(program.take_link(id)?).map_err(|_| anyhow!("no TC link was made"))?;
        link.pin(&path).with_context(|| format!("pin {}", path.display()))?;
        Ok(())
    }

    fn attach_clsact(&mut self, ifindex: u32) -> Result<()> {
        let name = name_of(ifindex)?;
        let path = self.pin_dir.join(format!("clsact-{ifindex}"));
        // "Exclusivity flag on": it is there already.
        let _ = tc::qdisc_add_clsact(&name);
        let handle = TcHandle::new(0, 1);
        let program = tc(&mut self.ebpf)?;
        let replaced = SchedClassifierLink::attached(&name, TcAttachType::Ingress, PRIORITY, handle, None)
            .map_err(ProgramError::from)
            .and_then(|old| program.attach_to_link(old));
        let id = match replaced {
            Ok(id) => id,
            Err(_) => {
                let options = NlOptions { priority: PRIORITY, handle, classid: None };
                program.attach_with_options(
                    &name,
                    TcAttachType::Ingress,
                    TcAttachOptions::Netlink(options),
                )?
            }
        };
        // Dropping a netlink link takes the filter away; it is to stay.
        std::mem::forget(program.take_link(id)?);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        program.pin(&path).with_context(|| format!("pin {}", path.display()))?;
        Ok(())
    }

    fn detach_tc(&mut self, ifindex: u32) -> Result<()> {
        let mark = self.pin_dir.join(format!("clsact-{ifindex}"));
        if mark.exists() {
            if let Ok(name) = name_of(ifindex) {
                match tc::qdisc_detach_program(&name, TcAttachType::Ingress, TC_PROGRAM) {
                    Ok(()) => {}
                    Err(tc::TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| format!("detach TC from {name}")),
                }
            }
            remove_pin(&mark)?;
        }
        remove_pin(&self.pin_dir.join(format!("tc-{ifindex}")))
    }
}

/// The last reference to a link is its pin: removing it detaches.
fn remove_pin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The driver's refusal in an operator's words.
fn explain(ifindex: u32, error: anyhow::Error) -> anyhow::Error {
    match os_error(&error) {
        Some(libc::EOPNOTSUPP) => error.context("the driver has no XDP"),
        Some(libc::EBUSY | libc::EEXIST) => error.context("another XDP program is on it"),
        Some(libc::ERANGE | libc::EINVAL | libc::E2BIG) => {
            error.context(format!("the MTU of interface {ifindex} or of its peer may be too large for XDP"))
        }
        _ => error,
    }
}

/// Whether a refusal may be about the length of frames: drivers have several words for it.
fn may_be_for_size(error: &anyhow::Error) -> bool {
    matches!(os_error(error), Some(libc::ERANGE | libc::EINVAL | libc::E2BIG | libc::EOPNOTSUPP))
}

fn os_error(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error)
}

/// The interface's name now.
fn name_of(ifindex: u32) -> Result<String> {
    let mut buffer = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the call wants.
    let name = unsafe { libc::if_indextoname(ifindex, buffer.as_mut_ptr()) };
    if name.is_null() {
        bail!("interface {ifindex} is gone");
    }
    // SAFETY: the kernel has written a string that ends with a zero.
    Ok(unsafe { CStr::from_ptr(name) }.to_str()?.to_owned())
}

/// Opens a pinned link.
fn open_link(path: &Path) -> Result<OwnedFd> {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let get = ObjGetAttr { pathname: name.as_ptr() as u64, ..ObjGetAttr::default() };
    // SAFETY: the attributes are the command's, and the name outlives it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<ObjGetAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("open {}", path.display()));
    }
    // SAFETY: a fresh descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The interface that a pinned link is attached to; 0 once it was cut. `bpf_link_info` has it
/// behind type, id and program id, for XDP and TC alike (linux/bpf.h); aya keeps it to itself.
fn link_ifindex(path: &Path) -> Result<u32> {
    const IFINDEX: usize = 4;
    let mut info = [0u32; 32];
    let fd = open_link(path)?;
    let attr = InfoAttr {
        fd: fd.as_raw_fd() as u32,
        length: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attributes are the command's, and the buffer has the length that is given.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attr, size_of::<InfoAttr>())
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("ask about {}", path.display()));
    }
    Ok(info[IFINDEX])
}

/// Cuts a pinned XDP link (5.9 and later): its interface takes another at once. When the pin is removed the kernel does so
/// some time later.
fn cut(path: &Path) -> Result<()> {
    let fd = open_link(path)?;
    let attr = fd.as_raw_fd() as u32;
    // SAFETY: the attributes are the command's, a descriptor.
    match unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const attr, size_of::<u32>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("cut {}", path.display())),
    }
}

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr`, the part of `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct ObjGetAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr`, the part of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

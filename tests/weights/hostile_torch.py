"""Torch checkpoints that lie, or that want to run code; one function each. Every one must be refused.

Those under `attack` ask for something that only running code could give: they must be an UnsafeFile. None of
the pickles is ever executed here either: they are written opcode by opcode. Run as a command, it writes all
of them into a folder: python tests/weights/hostile_torch.py FOLDER
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from weights.make_files import (
    EMPTY_ODICT,
    FALSE,
    NONE,
    ODICT,
    Entry,
    call,
    glob,
    good_pickle,
    ints,
    legacy_file,
    num,
    odict,
    pid,
    program,
    system_info,
    tensor,
    torch_entries,
    torch_zip_file,
    tup,
    uni,
    zip_file,
)

CASES: dict[str, Callable[[], bytes]] = {}
ATTACKS: set[str] = set()


def case(make: Callable[[], bytes]) -> Callable[[], bytes]:
    CASES[make.__name__] = make
    return make


def attack(make: Callable[[], bytes]) -> Callable[[], bytes]:
    ATTACKS.add(make.__name__)
    return case(make)


def with_value(value: bytes) -> bytes:
    """A zip whose pickle has this value."""
    return torch_zip_file(program(value))


def with_tensor(**fields: object) -> bytes:
    """A zip whose one tensor has other sizes, strides, offset or hooks."""
    return with_value(odict(a=tensor(pid(), **fields)))  # type: ignore[arg-type]


# Pickles that want to run code

MARKER = uni("touch /tmp/gpt2-was-here")


@attack
def calls_os_system() -> bytes:
    return with_value(call(glob("os", "system"), MARKER))


@attack
def calls_posix_system() -> bytes:
    return with_value(call(glob("posix", "system"), MARKER))


@attack
def calls_builtins_eval() -> bytes:
    return with_value(call(glob("builtins", "eval"), uni("__import__('os').getcwd()")))


@attack
def calls_python2_eval() -> bytes:
    return with_value(call(glob("__builtin__", "eval"), uni("1")))


@attack
def calls_builtins_exec() -> bytes:
    return with_value(call(glob("builtins", "exec"), uni("import os")))


@attack
def calls_getattr() -> bytes:
    return with_value(call(glob("builtins", "getattr"), ODICT, uni("fromkeys")))


@attack
def calls_import_module() -> bytes:
    return with_value(call(glob("importlib", "import_module"), uni("antigravity")))


@attack
def calls_subprocess() -> bytes:
    return with_value(call(glob("subprocess", "Popen"), MARKER))


@attack
def calls_pickle_loads() -> bytes:
    return with_value(call(glob("_pickle", "loads"), b"C\x01."))


@attack
def calls_torch_load() -> bytes:
    return with_value(call(glob("torch.serialization", "load"), uni("/tmp/other.bin")))


@attack
def calls_torch_hub() -> bytes:
    return with_value(call(glob("torch.hub", "load"), uni("a/b"), uni("c")))


@attack
def calls_numpy_runstring() -> bytes:
    return with_value(call(glob("numpy.testing._private.utils", "runstring"), uni("1"), b"}"))


@attack
def calls_a_dotted_name_below_an_allowed_module() -> bytes:
    return with_value(call(glob("collections", "OrderedDict.fromkeys"), uni("ab")))


@attack
def calls_a_submodule_of_torch_utils() -> bytes:
    return with_value(call(glob("torch._utils", "_rebuild_tensor_v2.__globals__"), uni("a")))


@attack
def calls_a_sibling_of_an_allowed_name() -> bytes:
    return with_value(call(glob("torch._utils", "_rebuild_sparse_tensor"), uni("a"), b")"))


@attack
def names_an_allowed_name_with_other_case() -> bytes:
    return with_value(call(glob("Collections", "OrderedDict")))


@attack
def names_an_allowed_name_with_a_space() -> bytes:
    return with_value(call(glob("collections", "OrderedDict ")))


@attack
def names_with_a_homoglyph() -> bytes:
    return with_value(call(glob("сollections", "OrderedDict")))  # the first letter is Cyrillic


@attack
def only_imports_and_never_calls() -> bytes:
    return torch_zip_file(program(glob("os", "system") + b"q\x00" + odict(a=tensor(pid()))))


@attack
def code_after_a_good_state_dict() -> bytes:
    return torch_zip_file(good_pickle(more=call(glob("os", "system"), MARKER)))


@attack
def code_in_the_tensors_hooks() -> bytes:
    return with_tensor(hooks=odict(a=call(glob("os", "system"), MARKER)))


@attack
def hooks_that_are_not_empty() -> bytes:
    return with_tensor(hooks=odict(a=num(1)))


@attack
def metadata_that_negates_a_tensor() -> bytes:
    function = glob("torch._utils", "_rebuild_tensor_v2")
    bits = b"}" + uni("neg") + b"\x88s"
    return with_value(
        odict(a=call(function, pid(), num(0), ints(2, 3), ints(3, 1), FALSE, EMPTY_ODICT, bits))
    )


@attack
def code_in_the_state_of_a_dict() -> bytes:
    return torch_zip_file(good_pickle(more=b"}" + uni("x") + call(glob("os", "system"), MARKER) + b"sb"))


@attack
def build_on_a_tensor() -> bytes:
    return with_value(odict(a=tensor(pid()) + b"}" + uni("grad_fn") + num(1) + b"sb"))


@attack
def build_with_slots() -> bytes:
    return torch_zip_file(good_pickle(more=tup(NONE, b"}") + b"b"))


@attack
def newobj() -> bytes:
    return with_value(ODICT + b")\x81")


@attack
def newobj_ex() -> bytes:
    return with_value(ODICT + b")}\x92")


@attack
def inst() -> bytes:
    return with_value(b"(ios\nsystem\n")


@attack
def obj() -> bytes:
    return with_value(b"(" + ODICT + b"o")


@attack
def extension_registry() -> bytes:
    return with_value(b"\x82\x01")


@attack
def persistent_id_as_text() -> bytes:
    return with_value(b"Pstorage\n")


@attack
def stack_global_of_os_system() -> bytes:
    return with_value(call(b"\x8c\x02os\x8c\x06system\x93", MARKER))


@attack
def next_buffer() -> bytes:
    return with_value(b"\x97")


@attack
def byte_array() -> bytes:
    return with_value(b"\x96" + struct.pack("<Q", 1 << 40))


@attack
def duplicates_the_stack() -> bytes:
    return with_value(b"}2")


@attack
def calls_a_storage_class() -> bytes:
    return with_value(call(glob("torch", "FloatStorage"), num(1 << 40)))


@attack
def calls_a_string() -> bytes:
    return with_value(call(uni("os.system"), MARKER))


@attack
def calls_rebuild_with_too_many_arguments() -> bytes:
    return with_value(odict(a=call(glob("torch._utils", "_rebuild_tensor_v2"), *[num(0)] * 9)))


@attack
def whole_module_pickled() -> bytes:
    return with_value(call(glob("torch.nn.modules.linear", "Linear")))


@attack
def numpy_scalar() -> bytes:
    return with_value(call(glob("numpy.core.multiarray", "scalar"), uni("f8")))


@attack
def argparse_namespace() -> bytes:
    return with_value(odict(a=tensor(pid()), args=call(glob("argparse", "Namespace"))))


@attack
def legacy_code_in_the_magic_number() -> bytes:
    return legacy_file(magic=num(0x1950A86A20F9469CFC6C) + call(glob("os", "system"), MARKER))


@attack
def legacy_code_in_the_system_info() -> bytes:
    return legacy_file(system=call(glob("os", "system"), MARKER))


@attack
def legacy_code_in_the_keys() -> bytes:
    return legacy_file(keys=call(glob("os", "system"), MARKER))


@attack
def legacy_code_in_the_object() -> bytes:
    return legacy_file(call(glob("os", "system"), MARKER))


# Pickles that are broken


@case
def pickle_empty() -> bytes:
    return torch_zip_file(b"")


@case
def pickle_without_stop() -> bytes:
    return torch_zip_file(good_pickle()[:-1])


@case
def pickle_only_stop() -> bytes:
    return torch_zip_file(b"\x80\x02.")


@case
def pickle_goes_on_after_stop() -> bytes:
    return torch_zip_file(good_pickle() + good_pickle())


@case
def pickle_leaves_two_values() -> bytes:
    return torch_zip_file(b"\x80\x02N" + good_pickle()[2:])


@case
def pickle_leaves_a_mark() -> bytes:
    return torch_zip_file(b"\x80\x02(" + good_pickle()[2:])


@case
def pickle_of_protocol_0() -> bytes:
    return torch_zip_file(program(EMPTY_ODICT, protocol=0))


@case
def pickle_of_protocol_200() -> bytes:
    return torch_zip_file(program(EMPTY_ODICT, protocol=200))


@case
def pickle_with_an_unknown_opcode() -> bytes:
    return with_value(b"\xff")


@case
def pickle_gets_what_it_never_put() -> bytes:
    return with_value(b"h\x07")


@case
def pickle_reduces_nothing() -> bytes:
    return with_value(b"R")


@case
def pickle_reduces_without_a_tuple() -> bytes:
    return with_value(ODICT + b"]R")


@case
def pickle_appends_to_a_dict() -> bytes:
    return with_value(b"}Na")


@case
def pickle_sets_items_of_a_list() -> bytes:
    return with_value(b"]" + uni("a") + b"Ns")


@case
def pickle_sets_half_an_item() -> bytes:
    return with_value(b"}(" + uni("a") + b"u")


@case
def pickle_sets_a_key_twice() -> bytes:
    return with_value(b"}(" + uni("a") + tensor(pid()) + uni("a") + tensor(pid()) + b"u")


@case
def pickle_has_a_tuple_as_key() -> bytes:
    return with_value(b"})Ns")


@case
def pickle_hashes_an_exponential_tuple() -> bytes:
    # A pair of the pair of the pair ...: hashing or comparing it would take 2^100 steps.
    return with_value(b"})" + b"q\x00h\x00\x86" * 100 + b"Ns")


@case
def pickle_prints_an_exponential_tuple() -> bytes:
    return with_value(b")" + b"q\x00h\x00\x86" * 100 + b")R")


@case
def pickle_nests_a_hundred_thousand_tuples() -> bytes:
    return with_value(b")" + b"\x85" * 100_000)


@case
def pickle_contains_itself() -> bytes:
    return with_value(b"]q\x00h\x00a")


@case
def pickle_of_a_million_steps() -> bytes:
    return with_value(b"]" + b"Na" * 500_000)


@case
def pickle_of_a_million_marks() -> bytes:
    return with_value(b"(" * 1_000_000)


@case
def pickle_with_a_string_of_4_gigabytes() -> bytes:
    return with_value(b"X\xff\xff\xff\xffabc")


@case
def pickle_with_a_string_that_is_not_utf8() -> bytes:
    return with_value(odict(a=tensor(pid())) + uni(b"\xff\xfe") + b"Ns")


@case
def pickle_with_a_surrogate() -> bytes:
    return with_value(odict(**{"\ud800": tensor(pid())}))


@case
def pickle_with_an_endless_global() -> bytes:
    return with_value(b"c" + b"a" * 100_000)


@case
def pickle_with_a_huge_integer() -> bytes:
    return with_value(b"\x8a\xff" + b"\xff" * 255)


@case
def pickle_with_memo_far_away() -> bytes:
    return with_value(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xfe")


@case
def pickle_of_a_number() -> bytes:
    return with_value(num(7))


@case
def pickle_of_an_empty_dict() -> bytes:
    return with_value(EMPTY_ODICT)


@case
def pickle_of_two_state_dicts() -> bytes:
    return with_value(odict(model=odict(a=tensor(pid())), state_dict=odict(a=tensor(pid()))))


@case
def pickle_with_a_tensor_without_name() -> bytes:
    return with_value(odict(**{"": tensor(pid())}))


@case
def pickle_with_a_tensor_named_with_escapes() -> bytes:
    return with_value(odict(**{"a\x1b[31m": tensor(pid())}))


@case
def pickle_too_large() -> bytes:
    return torch_zip_file(good_pickle() + bytes(5 << 20))


@case
def ordered_dict_of_a_string() -> bytes:
    return with_value(call(ODICT, uni("ab")))


@case
def ordered_dict_of_triples() -> bytes:
    return with_value(call(ODICT, b"](" + tup(NONE, NONE, NONE) + b"e"))


# Tensors that reach where they must not


@case
def tensor_offset_beyond_its_storage() -> bytes:
    return with_tensor(offset=7)


@case
def tensor_offset_negative() -> bytes:
    return with_tensor(offset=-1)


@case
def tensor_offset_huge() -> bytes:
    return with_tensor(offset=(1 << 63) - 1)


@case
def tensor_offset_pushes_the_end_out() -> bytes:
    return with_tensor(offset=1)


@case
def tensor_larger_than_its_storage() -> bytes:
    return with_tensor(shape=ints(2, 4), stride=ints(4, 1))


@case
def tensor_stride_reaches_out() -> bytes:
    return with_tensor(stride=ints(6, 1))


@case
def tensor_stride_negative() -> bytes:
    return with_tensor(stride=ints(-3, 1))


@case
def tensor_stride_overflows() -> bytes:
    return with_tensor(stride=ints((1 << 63) - 1, 1))


@case
def tensor_stride_zero_expands_one_element() -> bytes:
    return with_tensor(shape=ints(1 << 40), stride=ints(0))


@case
def tensor_sizes_overflow() -> bytes:
    return with_tensor(shape=ints(1 << 32, 1 << 32), stride=ints(0, 0))


@case
def tensor_size_negative() -> bytes:
    return with_tensor(shape=ints(-2, 3))


@case
def tensor_size_float() -> bytes:
    return with_tensor(shape=tup(b"G" + struct.pack(">d", 2.0), num(3)))


@case
def tensor_size_boolean() -> bytes:
    return with_tensor(shape=tup(b"\x88", num(3)))


@case
def tensor_sizes_and_strides_differ_in_number() -> bytes:
    return with_tensor(stride=ints(1))


@case
def tensor_sizes_are_a_list() -> bytes:
    return with_tensor(shape=b"](" + num(2) + num(3) + b"e")


@case
def tensor_of_a_thousand_dimensions() -> bytes:
    return with_tensor(shape=ints(*[1] * 1000), stride=ints(*[1] * 1000))


@case
def tensor_without_storage() -> bytes:
    return with_value(odict(a=tensor(NONE)))


@case
def tensor_on_a_string() -> bytes:
    return with_value(odict(a=tensor(uni("0"))))


@case
def tensor_on_a_tensor() -> bytes:
    return with_value(odict(a=tensor(tensor(pid()))))


@case
def parameter_without_tensor() -> bytes:
    return with_value(odict(a=call(glob("torch._utils", "_rebuild_parameter"), NONE, FALSE, EMPTY_ODICT)))


# Storages


@case
def storage_missing() -> bytes:
    return with_value(odict(a=tensor(pid("1"))))


@case
def storage_shorter_than_told() -> bytes:
    return torch_zip_file(storages={"0": bytes(23)})


@case
def storage_longer_than_told() -> bytes:
    return torch_zip_file(storages={"0": bytes(25)})


@case
def storage_with_two_types() -> bytes:
    return with_value(odict(a=tensor(pid()), b=tensor(pid("0", 6, "IntStorage"))))


@case
def storage_with_two_sizes() -> bytes:
    return with_value(odict(a=tensor(pid()), b=tensor(pid("0", 12, "HalfStorage"))))


@case
def storage_of_negative_size() -> bytes:
    return with_value(odict(a=tensor(pid(numel=-6))))


@case
def storage_of_huge_size() -> bytes:
    return with_value(odict(a=tensor(pid(numel=1 << 62))))


@case
def storage_key_leads_to_the_pickle() -> bytes:
    return with_value(odict(a=tensor(pid("../data.pkl"))))


@case
def storage_key_is_a_number() -> bytes:
    reference = tup(uni("storage"), glob("torch", "FloatStorage"), num(0), uni("cpu"), num(6)) + b"Q"
    return with_value(odict(a=tensor(reference)))


@case
def storage_class_is_a_string() -> bytes:
    reference = tup(uni("storage"), uni("FloatStorage"), uni("0"), uni("cpu"), num(6)) + b"Q"
    return with_value(odict(a=tensor(reference)))


@case
def storage_class_is_ordered_dict() -> bytes:
    reference = tup(uni("storage"), ODICT, uni("0"), uni("cpu"), num(6)) + b"Q"
    return with_value(odict(a=tensor(reference)))


@case
def persistent_id_is_a_string() -> bytes:
    return with_value(uni("storage") + b"Q")


@case
def persistent_id_of_a_module() -> bytes:
    return with_value(tup(uni("module"), ODICT, uni("a.py"), uni("source")) + b"Q")


@case
def storage_is_a_view() -> bytes:
    return with_value(odict(a=tensor(pid(more=tup(uni("1"), num(0), num(6))))))


@case
def big_endian() -> bytes:
    entries = torch_entries()
    entries[1] = Entry("m/byteorder", b"big")
    return zip_file(entries)


# The archive


def with_entry(at: int, **fields: object) -> bytes:
    """The good archive with other fields in one entry: 0 the pickle, 2 the storage."""
    entries = torch_entries()
    for key, value in fields.items():
        setattr(entries[at], key, value)
    return zip_file(entries)


@case
def zip_entry_encrypted() -> bytes:
    return with_entry(2, flags=1)


@case
def zip_entry_encrypted_only_locally() -> bytes:
    return with_entry(0, local={"flags": 1})


@case
def zip_entry_compressed() -> bytes:
    return with_entry(0, method=8)


@case
def zip_entry_compressed_only_in_the_directory() -> bytes:
    return with_entry(0, method=8, local={"method": 0})


@case
def zip_entry_compressed_only_locally() -> bytes:
    return with_entry(0, local={"method": 8})


@case
def zip_entry_patched_and_masked() -> bytes:
    return with_entry(0, flags=0x2020)


@case
def zip_two_pickles_of_one_name() -> bytes:
    bad = Entry("m/data.pkl", program(call(glob("os", "system"), MARKER)))
    return zip_file([bad, *torch_entries()])


@case
def zip_two_storages_of_one_name() -> bytes:
    return zip_file([*torch_entries(), Entry("m/data/0", bytes(24))])


@case
def zip_local_name_differs() -> bytes:
    return with_entry(0, local_name="m/evil.pkl")


@case
def zip_local_size_differs() -> bytes:
    return with_entry(2, local={"size": 12})


@case
def zip_local_crc_differs() -> bytes:
    return with_entry(2, local={"crc": 1})


@case
def zip_pickle_checksum_wrong() -> bytes:
    return with_entry(0, crc=1)


@case
def zip_size_larger_than_the_data() -> bytes:
    return with_entry(2, size=240)


@case
def zip_size_larger_than_the_file() -> bytes:
    return with_entry(2, size=1 << 30)


@case
def zip_two_sizes() -> bytes:
    return with_entry(2, packed=12)


@case
def zip_entry_overlaps_the_first() -> bytes:
    return with_entry(2, header=0)


@case
def zip_entry_beyond_the_file() -> bytes:
    return with_entry(2, header=1 << 30)


@case
def zip_gap_between_entries() -> bytes:
    return with_entry(2, before=b"hidden")


@case
def zip_begins_with_something_else() -> bytes:
    return with_entry(0, before=b"PK\x03\x04hidden")


@case
def zip_nested_in_front() -> bytes:
    return torch_zip_file() + torch_zip_file()


@case
def zip_with_a_zip_as_pickle() -> bytes:
    return torch_zip_file(torch_zip_file())


@case
def zip_with_a_comment() -> bytes:
    return zip_file(torch_entries(), comment=b"hello")


@case
def zip_with_a_comment_that_is_an_end_record() -> bytes:
    return zip_file(torch_entries(), comment=b"PK\x05\x06" + bytes(18))


@case
def zip_with_bytes_after_the_end() -> bytes:
    return zip_file(torch_entries(), after=b"\0")


@case
def zip_truncated_by_one_byte() -> bytes:
    return torch_zip_file()[:-1]


@case
def zip_truncated_to_half() -> bytes:
    return torch_zip_file()[: len(torch_zip_file()) // 2]


@case
def zip_of_only_a_signature() -> bytes:
    return b"PK\x03\x04"


@case
def zip_of_only_an_end_record() -> bytes:
    return b"PK\x03\x04" + zip_file([])


@case
def zip_directory_offset_wrong() -> bytes:
    return zip_file(torch_entries(), offset=0)


@case
def zip_directory_offset_beyond_the_file() -> bytes:
    return zip_file(torch_entries(), offset=0xFFFFFFF0)


@case
def zip_directory_size_wrong() -> bytes:
    return zip_file(torch_entries(), size=10)


@case
def zip_count_too_large() -> bytes:
    return zip_file(torch_entries(), count=60_000)


@case
def zip_count_too_small() -> bytes:
    return zip_file(torch_entries(), count=1)


@case
def zip_on_two_disks() -> bytes:
    return zip_file(torch_entries(), disk=1)


@case
def zip64_marker_without_its_field() -> bytes:
    return with_entry(2, size=0xFFFFFFFF)


@case
def zip64_field_cut_short() -> bytes:
    return with_entry(2, size=0xFFFFFFFF, extra=struct.pack("<HHI", 1, 16, 7))


@case
def zip64_size_huge() -> bytes:
    return with_entry(2, size=0xFFFFFFFF, extra=struct.pack("<HHQQ", 1, 16, 1 << 62, 1 << 62))


@case
def zip64_end_record_lies() -> bytes:
    plain = torch_zip_file()
    at = len(plain) - 22
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 4, 4, 1, 1)
    return zip_file(torch_entries(), zip64=record + struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1))


@case
def zip64_locator_lies() -> bytes:
    return zip_file(torch_entries(), zip64=struct.pack("<4sIQI", b"PK\x06\x07", 0, 1 << 62, 1))


@case
def zip_descriptor_wrong() -> bytes:
    return with_entry(2, flags=8, descriptor=bytes(16))


@case
def zip_descriptor_missing() -> bytes:
    return with_entry(2, flags=8, descriptor=b"")


@case
def zip_of_twenty_thousand_entries() -> bytes:
    return zip_file([*torch_entries(), *(Entry(f"m/data/{i}", b"") for i in range(1, 20_000))])


@case
def zip_name_leads_out() -> bytes:
    return zip_file([*torch_entries(), Entry("m/../../evil", b"x")])


@case
def zip_name_absolute() -> bytes:
    return zip_file([*torch_entries(), Entry("/etc/cron.d/evil", b"x")])


@case
def zip_name_empty() -> bytes:
    return zip_file([*torch_entries(), Entry("", b"x")])


@case
def zip_name_with_nul() -> bytes:
    return zip_file([*torch_entries(), Entry("m/data.pkl\0.txt", b"x")])


@case
def zip_of_two_models() -> bytes:
    return zip_file([*torch_entries(), Entry("n/data.pkl", good_pickle())])


@case
def zip_with_another_entry() -> bytes:
    return zip_file([*torch_entries(), Entry("m/run.py", b"print(1)")])


@case
def zip_with_a_library() -> bytes:
    return zip_file([*torch_entries(), Entry("m/data/0.so", b"\x7fELF")])


@case
def zip_of_torchscript() -> bytes:
    entries = [*torch_entries(), Entry("m/code/__torch__.py", b"1"), Entry("m/constants.pkl", b"")]
    return zip_file(entries)


@case
def zip_without_a_pickle() -> bytes:
    return zip_file(torch_entries()[1:])


@case
def zip_of_documents() -> bytes:
    return zip_file([Entry("word/document.xml", b"<xml/>")])


# The legacy format


@case
def legacy_magic_only() -> bytes:
    return legacy_file()[:16]


@case
def legacy_version_wrong() -> bytes:
    return legacy_file(version=num(1002))


@case
def legacy_version_missing() -> bytes:
    return legacy_file(version=NONE)


@case
def legacy_big_endian() -> bytes:
    return legacy_file(system=system_info(FALSE))


@case
def legacy_system_info_is_a_list() -> bytes:
    return legacy_file(system=b"]")


@case
def legacy_keys_missing() -> bytes:
    return legacy_file(keys=b"]")


@case
def legacy_keys_too_many() -> bytes:
    return legacy_file(keys=b"](" + uni("0") + uni("1") + b"e")


@case
def legacy_keys_twice() -> bytes:
    return legacy_file(keys=b"](" + uni("0") + uni("0") + b"e")


@case
def legacy_keys_are_numbers() -> bytes:
    return legacy_file(keys=b"](" + num(0) + b"e")


@case
def legacy_storage_count_wrong() -> bytes:
    return legacy_file(storages=struct.pack("<q", 7) + bytes(24))


@case
def legacy_storage_count_negative() -> bytes:
    return legacy_file(storages=struct.pack("<q", -6) + bytes(24))


@case
def legacy_storage_cut_short() -> bytes:
    return legacy_file()[:-1]


@case
def legacy_storage_missing() -> bytes:
    return legacy_file(storages=b"")


@case
def legacy_bytes_after_the_end() -> bytes:
    return legacy_file() + b"\0"


@case
def legacy_storage_of_a_terabyte() -> bytes:
    return legacy_file(odict(a=tensor(pid(numel=1 << 38, more=NONE))))


@case
def legacy_storage_is_a_view() -> bytes:
    return legacy_file(odict(a=tensor(pid(more=tup(uni("1"), num(0), num(6))))))


@case
def legacy_pickle_never_ends() -> bytes:
    return legacy_file(b"]" + b"Na" * 1_000_000)


@case
def plain_pickle() -> bytes:
    return program(call(glob("os", "system"), MARKER))


@case
def plain_pickle_of_protocol_0() -> bytes:
    return b"cos\nsystem\n(S'id'\ntR."


@case
def tar_archive() -> bytes:
    return b"pickle" + bytes(506) + b"ustar"


if __name__ == "__main__":
    for title, make in CASES.items():
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        (Path(sys.argv[1]) / f"{title}.bin").write_bytes(make())

"""The bodies of DiFX messages that come from recorders and their disks: Mark 5, Mark 6, SMART values."""

from __future__ import annotations

from dataclasses import dataclass

from mpiframe.plugins.difx.messages_fields import (
    MJD,
    Body,
    choice,
    empty_elements,
    hexadecimal,
    integer,
    nested,
    numbered,
    optional_integer,
    optional_text,
    real,
    text,
)
from mpiframe.plugins.difx.messages_states import Mark5State, known

_SMART = 32


@dataclass(frozen=True)
class Mark5Status(Body):
    """What a Mark 5 unit does; play_rate in Mbit/s."""

    type = "Mark5StatusMessage"
    wrapper = "mark5Status"
    input: str | None = optional_text("input")
    bank_a_vsn: str = text("bankAVSN")
    bank_b_vsn: str = text("bankBVSN")
    status_word: int = hexadecimal("statusWord")
    active_bank: str = text("activeBank")
    state: Mark5State | str = choice("state", known(Mark5State), "")  # noqa: RUF009
    scan_number: int = integer("scanNumber")
    scan_name: str = text("scanName")
    position: int = integer("position")
    play_rate: float = real("playRate", "%5.3f")
    data_mjd: float = real("dataMJD", MJD)


@dataclass(frozen=True)
class DaughterBoard(Body):
    """A part of a Mark 5 unit's version."""

    pcb_version: str = text("PCBVer")
    pcb_type: str = text("PCBType")
    pcb_subtype: str = text("PCBSubType")
    fpga_config: str = text("FPGAConfig")
    fpga_config_version: str = text("FPGAConfigVer")
    serial_number: str = text("SerialNum")
    channels: str = text("NumChannels")


@dataclass(frozen=True)
class Mark5Version(Body):
    """The versions of a Mark 5 unit's parts. DiFX sends it with Mark5Status's type, a mistake."""

    type = "Mark5VersionMessage"
    wrapper = "mark5Version"
    api: str = text("ApiVer")
    api_date: str = text("ApiDate")
    firmware: str = text("FirmVer")
    firmware_date: str = text("FirmDate")
    monitor: str = text("MonVer")
    crossbar: str = text("XbarVer")
    ata: str = text("AtaVer")
    uata: str = text("UAtaVer")
    driver: str = text("DriverVer")
    board_type: str = text("BoardType")
    serial_number: str = text("SerialNum")
    daughter_board: DaughterBoard | None = nested("DaughterBoard", DaughterBoard)  # noqa: RUF009


@dataclass(frozen=True)
class Mark6Status(Body):
    """What a Mark 6 unit does, with its four slots; play_rate in Mbit/s."""

    type = "Mark6StatusMessage"
    wrapper = "mark6Status"
    input: str | None = optional_text("input")
    slot1_msn: str = text("slot1MSN")
    slot2_msn: str = text("slot2MSN")
    slot3_msn: str = text("slot3MSN")
    slot4_msn: str = text("slot4MSN")
    slot1_group: str = text("slot1Group")
    slot2_group: str = text("slot2Group")
    slot3_group: str = text("slot3Group")
    slot4_group: str = text("slot4Group")
    slot1_disks: int = integer("slot1Disks")
    slot2_disks: int = integer("slot2Disks")
    slot3_disks: int = integer("slot3Disks")
    slot4_disks: int = integer("slot4Disks")
    slot1_missing: int = integer("slot1MissingDisks")
    slot2_missing: int = integer("slot2MissingDisks")
    slot3_missing: int = integer("slot3MissingDisks")
    slot4_missing: int = integer("slot4MissingDisks")
    state: Mark5State | str = choice("state", known(Mark5State), "")  # noqa: RUF009
    scan_number: int = integer("scanNumber")
    scan_name: str = text("scanName")
    position: int = integer("position")
    play_rate: float = real("playRate", "%5.3f")
    data_mjd: float = real("dataMJD", MJD)


@dataclass(frozen=True)
class Mark6SlotStatus(Body):
    """One slot of a Mark 6 unit; its state is a number."""

    type = "Mark6SlotStatusMessage"
    wrapper = "mark6SlotStatus"
    input: str | None = optional_text("input")
    slot: int = integer("slot")
    msn: str = text("msn")
    group: str = text("group")
    disks: int = integer("numDisks")
    missing_disks: int = integer("numMissingDisks")
    state: int = integer("state")
    message: str = text("message")


@dataclass(frozen=True)
class Mark6Activity(Body):
    """What a Mark 6 unit does now; play_rate in Mbit/s."""

    type = "Mark6ActivityMessage"
    wrapper = "mark6Activity"
    input: str | None = optional_text("input")
    active_vsn: str = text("activeVSN")
    status_word: int = hexadecimal("statusWord")
    state: Mark5State | str = choice("state", known(Mark5State), "")  # noqa: RUF009
    scan_number: int = integer("scanNumber")
    scan_name: str = text("scanName")
    position: int = integer("position")
    play_rate: float = real("playRate", "%5.3f")
    data_mjd: float = real("dataMJD", MJD)


@dataclass(frozen=True)
class DriveStats(Body):
    """How a disk of a module did; size in GB, bins: how many reads or writes took how long."""

    type = "Mark5DriveStatsMessage"
    wrapper = "difxDriveStats"
    serial_number: str = text("serialNumber")
    model_number: str = text("modelNumber")
    size: int = integer("size")
    module_vsn: str = text("moduleVSN")
    module_slot: int = integer("moduleSlot")
    start_mjd: float = real("startMJD", MJD)
    stop_mjd: float = real("stopMJD", MJD)
    kind: str = text("type")
    start_byte: int | None = optional_integer("startByte")
    bins: tuple[int, ...] = numbered("bin", 8)


@dataclass(frozen=True)
class SmartValue:
    """One value of a disk's SMART table."""

    id: int
    value: int


@dataclass(frozen=True)
class Smart(Body):
    """The SMART values of a disk."""

    type = "DifxSmartMessage"
    wrapper = "difxSmart"
    mjd: float = real("mjd", MJD)
    vsn: str = text("vsn")
    slot: int = integer("slot")
    values: tuple[SmartValue, ...] = empty_elements(
        "smart", SmartValue, ("id", "value"), ("%d", "%d"), _SMART
    )

"""Boards as their Linux shows them: files below a root, with the paths and forms of L4T 35, 36, 38 and of others."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BOARDS", "JETPACK_5", "JETPACK_6", "JETPACK_7", "plant"]

JETPACK_5 = {
    # Jetson AGX Orin, L4T 35: no alarm counters are readable, the GPU is ga10b
    "sys/class/devfreq/17000000.ga10b/device/load": "437",
    "sys/class/devfreq/17000000.ga10b/cur_freq": "1236750000",
    "sys/class/devfreq/17000000.ga10b/max_freq": "1300500000",
    "sys/class/devfreq/15480000.nvdec/cur_freq": "1011200000",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm",
    "sys/class/thermal/thermal_zone0/temp": "48718",
    "sys/class/thermal/thermal_zone1/type": "GPU-therm",
    "sys/class/thermal/thermal_zone1/temp": "-256000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "3",
    "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0",
    "sys/class/thermal/cooling_device1/cur_state": "0",
    "sys/class/thermal/cooling_device2/type": "devfreq-17000000.ga10b",
    "sys/class/thermal/cooling_device2/cur_state": "0",
    "sys/class/hwmon/hwmon3/name": "ina3221",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_GPU_SOC",
    "sys/class/hwmon/hwmon3/in1_input": "19096",
    "sys/class/hwmon/hwmon3/curr1_input": "168",
    "var/lib/nvpmodel/status": "pmode:0003",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MODE_50W >\n",
}
JETPACK_6 = {
    # Jetson Orin Nano, L4T 36
    "sys/class/devfreq/17000000.gpu/device/load": "1000",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "63625",
    "sys/class/thermal/thermal_zone8/type": "tj-thermal",
    "sys/class/thermal/thermal_zone8/temp": "64281",
    "sys/class/thermal/cooling_device2/type": "cpufreq-cpu0",
    "sys/class/thermal/cooling_device2/cur_state": "0",
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": "4984",
    "sys/class/hwmon/hwmon1/curr1_input": "1856",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon1/in2_input": "4984",
    "sys/class/hwmon/hwmon1/curr2_input": "600",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon2/oc2_event_cnt": "15",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "37",
    "var/lib/nvpmodel/status": "pmode:0002",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
}
JETPACK_7 = {
    # Jetson AGX Thor, L4T 38: no load below devfreq
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1574000000",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000",
    "sys/class/devfreq/gpu-nvd-0/cur_freq": "1691000000",
    "sys/class/thermal/thermal_zone2/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone2/temp": "56937",
    "sys/class/hwmon/hwmon4/name": "ina3221",
    "sys/class/hwmon/hwmon4/in1_label": "VDD_GPU",
    "sys/class/hwmon/hwmon4/in1_input": "19000",
    "sys/class/hwmon/hwmon4/curr1_input": "1997",
    "sys/class/hwmon/hwmon4/in3_label": "VIN",
    "sys/class/hwmon/hwmon4/in3_input": "20000",
    "sys/class/hwmon/hwmon4/curr3_input": "6224",
    "sys/class/hwmon/hwmon5/name": "soctherm_oc",
    "sys/class/hwmon/hwmon5/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon5/oc3_event_cnt": "179",
    "var/lib/nvpmodel/status": "pmode:0000",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n",
}
RASPBERRY = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "81250",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005",
}
LAPTOP = {
    "sys/class/thermal/cooling_device0/type": "Processor",
    "sys/class/thermal/cooling_device0/cur_state": "0",
    "sys/class/thermal/cooling_device1/type": "intel_powerclamp",
    "sys/class/thermal/cooling_device1/cur_state": "-1",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "2",
}
BOARDS = {
    "JetPack 5": JETPACK_5,
    "JetPack 6": JETPACK_6,
    "JetPack 7": JETPACK_7,
    "Raspberry Pi": RASPBERRY,
    "laptop": LAPTOP,
}


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write them."""
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root

"""The textbook set: the thresholds that were published, to the letter, so that they can be measured against evidence.

Source: "Socket State Analysis Prevents Docker Registry Connection Failures 30 Seconds Before Standard Commands Report Errors"
(Server Scout, 2026), and for opens a minute "Docker Hub - Too Many Requests (HAP429)" (S. Suresh, 2020). Where they give no
number, ours is marked as chosen.
"""
